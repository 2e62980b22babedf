import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Client, credentials, Metadata, type StatusObject } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fetchProgram } from "../../scripts/fetch.ts";
import { file_sallyport_v1_token_validator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { ExamplePage, ExampleService } from "../support/example.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";

/* The Python client in its echo service, with the real program. Its unit tests run first. Skipped without grpcio. */
const CLIENT = join(import.meta.dirname, "../../clients/python");
const exec = promisify(execFile);
/** The reason of the skip, for the names of the skipped tests. */
let without = "";
const library = await fetchProgram("grpcio-tools").catch((error: Error) => {
  without = ` (no Python with grpcio: ${error.message.split("\n", 1)[0]})`;
  return undefined;
});
const environment = (folder = CLIENT) => ({
  ...process.env,
  PYTHONPATH: `${folder}:${library}`,
  PYTHONDONTWRITEBYTECODE: "1",
});

test("the Python client's generated code has every field of the proto", async () => {
  const code = await readFile(join(CLIENT, "sallyport/gen/sallyport/v1/token_validator_pb2.pyi"), "utf8");
  const messages = file_sallyport_v1_token_validator.messages;
  expect(messages.length).toBeGreaterThan(5);
  for (const { name, fields } of messages) {
    const section = code.split(/^class /m).find((text) => text.startsWith(`${name}(`));
    for (const field of fields) expect(section, name).toContain(`${field.name.toUpperCase()}_FIELD_NUMBER`);
  }
  for (const { name } of file_sallyport_v1_token_validator.enums.flatMap(({ values }) => values)) {
    expect(code).toContain(name);
  }
});

/** The echo service of the client. */
class Testee {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #client: Client;

  private constructor(process: ChildProcess, lines: AsyncIterator<string>, port: number) {
    this.#process = process;
    this.#lines = lines;
    this.#client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  }

  static async start(server: string, target: string, cache: string): Promise<Testee> {
    const env = { ...environment(), SALLYPORT: target, CACHE: cache };
    const child = spawn("python3", ["-m", "testee", server], { cwd: CLIENT, env, stdio: ["pipe", "pipe", "inherit"] });
    const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    const { value } = await lines.next();
    return new Testee(child, lines, JSON.parse(value!).port);
  }

  /** What a call was answered, or its refusal. */
  call(method: string, bearer?: string, text = "hi"): Promise<string> {
    return new Promise((resolve) =>
      this.#client.makeUnaryRequest(path(method), encode, decode, text, meta(bearer), (error, answer) =>
        resolve(error === null ? answer! : refusal(error)),
      ),
    );
  }

  talk(bearer: string, method = "Talk") {
    return this.#client.makeBidiStreamRequest(path(method), encode, decode, meta(bearer));
  }

  read(method: string, bearer: string) {
    return this.#client.makeServerStreamRequest(path(method), encode, decode, "hi", meta(bearer));
  }

  total(bearer: string, texts: readonly string[]): Promise<string> {
    return new Promise((resolve) => {
      const call = this.#client.makeClientStreamRequest(path("Total"), encode, decode, meta(bearer), (error, answer) =>
        resolve(error === null ? answer! : refusal(error)),
      );
      for (const text of texts) call.write(text);
      call.end();
    });
  }

  /** How often each tier, verdict and state was reported by the hooks. */
  async seen(what: string): Promise<number> {
    return JSON.parse(await this.call("Seen"))[what] ?? 0;
  }

  /** Ends it in good order. Returns how often it left the feed. */
  async stop(): Promise<number> {
    this.#client.close();
    this.#process.stdin!.end();
    const { value } = await this.#lines.next();
    await once(this.#process, "exit");
    return JSON.parse(value!).left;
  }

  kill(): void {
    this.#client.close();
    this.#process.kill("SIGKILL");
  }
}

const encode = (text: string) => Buffer.from(toBinary(StringValueSchema, create(StringValueSchema, { value: text })));
const decode = (bytes: Buffer) => fromBinary(StringValueSchema, bytes).value;
const path = (method: string) => `/test.v1.Echo/${method}`;
const said = (text: string) => JSON.stringify([text, "user:ann", []]).replaceAll(",", ", ");
function meta(bearer?: string): Metadata {
  const metadata = new Metadata();
  if (bearer !== undefined) metadata.set("authorization", `Bearer ${bearer}`);
  return metadata;
}
function refusal({ code, metadata }: StatusObject): string {
  return `${code} ${metadata.get("sallyport-verdict")[0]}`;
}
/** The status of a stream that ends. */
async function end(stream: NodeJS.EventEmitter): Promise<string> {
  const [error] = (await once(stream, "error")) as [StatusObject];
  return refusal(error);
}

describe.skipIf(library === undefined)(`the Python client${without}`, () => {
  let sallyport: TestSallyport;
  let path: TcpProxy;
  let target: string;
  beforeAll(async () => {
    sallyport = await TestSallyport.start();
    await sallyport.admin.tenants.createTenant({ tenant: { id: "another" } });
    path = await startTcpProxy({ port: Number(new URL(sallyport.listeners.data).port) });
    target = `127.0.0.1:${path.port}`;
  });
  afterAll(async () => {
    await path?.stop();
    await sallyport?.stop();
  });
  const revoke = (id: string) => sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } });

  test("satisfies the vectors", async () => {
    const { stderr } = await exec("python3", ["-m", "unittest"], { cwd: CLIENT, env: environment() });
    expect(stderr).toMatch(/Ran \d{2,} tests[\s\S]*\nOK\n$/);
  });

  describe.each(["aio", "threads"])("%s", (server) => {
    let off: Testee;
    let feed: Testee;
    beforeAll(async () => {
      off = await Testee.start(server, target, "off");
      feed = await Testee.start(server, target, "feed");
    });
    afterAll(() => {
      off?.kill();
      feed?.kill();
    });

    test("follows the feed", async () => {
      await expect.poll(() => feed.seen("lease"), { timeout: 20_000 }).toBeGreaterThan(0);
    });

    test("admits a live token; the handler sees its identity, and not the credential", async () => {
      const { tokenString } = await sallyport.createToken({ scopes: ["orders.*"] });
      expect(await off.call("Say", tokenString)).toBe(said("hi"));
      expect(await off.call("Write", tokenString)).toBe(said("hi"));
      expect(await off.total(tokenString, ["one", "two"])).toBe(said("one two"));
      expect(await feed.call("Say", tokenString)).toBe(said("hi"));
      expect(await feed.total(tokenString, ["one", "two"])).toBe(said("one two"));
    });

    test("refuses others, each with its status, and the verdict in a trailer", async () => {
      const narrow = await sallyport.createToken({ scopes: ["orders.read"], audiences: ["stock"] });
      const wide = await sallyport.createToken({ scopes: ["orders.read"] });
      const far = await sallyport.createToken({ allowedCidrs: ["192.0.2.0/24"] });
      const near = await sallyport.createToken({ allowedCidrs: ["127.0.0.0/8"] });
      for (const testee of [off, feed]) {
        expect(await testee.call("Say")).toBe("16 NO_CREDENTIAL");
        expect(await testee.call("Say", "sp_pat_nonsense")).toBe("16 INVALID_TOKEN");
        expect(await testee.call("Say", "opaque")).toBe("16 INVALID_TOKEN");
        expect(await testee.call("Audience", narrow.tokenString)).toBe("16 WRONG_AUDIENCE");
        expect(await testee.call("Write", wide.tokenString)).toBe("7 INSUFFICIENT_SCOPE");
        expect(await testee.call("Tenant", wide.tokenString)).toBe("7 WRONG_TENANT");
        expect(await testee.call("Say", far.tokenString)).toBe("7 ADDRESS_NOT_ALLOWED");
        expect(await testee.call("Say", near.tokenString)).toBe(said("hi"));
        expect(await testee.total("opaque", ["one"])).toBe("16 INVALID_TOKEN");
        expect(await end(testee.talk("opaque"))).toBe("16 INVALID_TOKEN");
      }
    });

    test("admits a token in a further tenant until it is detached", async () => {
      for (const testee of [off, feed]) {
        const { tokenString, id } = await sallyport.createToken({ tenants: ["another"] });
        for (const method of ["Say", "Tenant"]) expect(await testee.call(method, tokenString)).toBe(said("hi"));
        await sallyport.admin.tokens.detachTenant({ tenant: "another", id });
        expect(await testee.call("Tenant", tokenString)).toBe("7 WRONG_TENANT");
        expect(await testee.call("Say", tokenString)).toBe(said("hi"));
      }
    });

    test("accepts no token after its revocation returned OK, from the cache or otherwise", async () => {
      const before = await feed.seen("cache ALLOW");
      let accepted = 0;
      for (let round = 0; round < 25; round++) {
        const { tokenString, id } = await sallyport.createToken();
        let revoked = false;
        // Calls that are under way all the time; each notes if the revocation had returned when it began.
        const loop = async () => {
          for (let after = 0; after < 3; ) {
            const began = revoked;
            const answer = await feed.call("Say", tokenString);
            if (began && answer === said("hi")) accepted++;
            if (began) after++;
          }
        };
        const loops = Array.from({ length: 4 }, loop);
        await expect.poll(() => feed.call("Say", tokenString)).toBe(said("hi"));
        await revoke(id);
        revoked = true;
        expect(await feed.call("Say", tokenString)).toBe("16 INVALID_TOKEN");
        await Promise.all(loops);
      }
      expect(accepted).toBe(0);
      expect((await feed.seen("cache ALLOW")) - before).toBeGreaterThan(25);
    });

    test("passes the messages of a stream, and ends the stream when its token is revoked", async () => {
      for (const testee of [off, feed]) {
        const { tokenString, id } = await sallyport.createToken();
        const stream = testee.talk(tokenString);
        stream.write("one");
        expect(await once(stream, "data")).toEqual([said("one")]);
        const ended = end(stream); // a silent stream: nobody writes
        await revoke(id);
        expect(await ended).toBe("16 INVALID_TOKEN");
        expect(await testee.seen("ended INVALID_TOKEN")).toBeGreaterThan(0);
      }
    });

    test("passes no message after the revocation returned OK", async () => {
      const { tokenString, id } = await sallyport.createToken();
      const stream = feed.talk(tokenString);
      stream.write("one");
      await once(stream, "data");
      const late: string[] = [];
      const ended = end(stream);
      await revoke(id);
      stream.on("data", (text) => late.push(text));
      stream.write("two");
      expect(await ended).toBe("16 INVALID_TOKEN");
      expect(late).toEqual([]);
    });

    test("ends streams of a server that sends all the time, and of a handler that is blocked", async () => {
      const { tokenString, id } = await sallyport.createToken();
      const [count, stuck] = [feed.read("Count", tokenString), feed.read("Stuck", tokenString)];
      count.on("data", () => {});
      expect(await once(stuck, "data")).toEqual([said("hi")]);
      const ended = Promise.all([end(count), end(stuck)]);
      await revoke(id);
      // Only the thread of a handler can set the status. A blocked one can but be cancelled.
      expect(await ended).toEqual(["16 INVALID_TOKEN", server === "aio" ? "16 INVALID_TOKEN" : "1 undefined"]);
    });

    test("passes nothing more from a handler that goes on after the end, and the status of one that aborts", async () => {
      const { tokenString, id } = await sallyport.createToken();
      const gone = feed.read("Gone", tokenString);
      expect(await once(gone, "data")).toEqual([said("hi")]);
      expect(await end(gone)).toBe("5 undefined");
      const stream = feed.talk(tokenString, "Stubborn");
      stream.write("one");
      const texts: string[] = [];
      stream.on("data", (text) => texts.push(text));
      await once(stream, "data");
      const ended = end(stream);
      await revoke(id);
      expect(await ended).toBe("16 INVALID_TOKEN");
      expect(texts).toEqual([said("one")]);
    });

    test("ends well a stream that ends by itself", async () => {
      const stream = feed.talk((await sallyport.createToken()).tokenString);
      const texts: string[] = [];
      stream.on("data", (text) => texts.push(text));
      for (const text of ["one", "two"]) stream.write(text);
      stream.end();
      await once(stream, "end");
      expect(texts).toEqual([said("one"), said("two")]);
    });

    test("accepts nothing after OK with the feed cut; it ends streams, and follows again once the feed is mended", async () => {
      const [one, two] = [await sallyport.createToken(), await sallyport.createToken()];
      await expect.poll(() => feed.call("Say", one.tokenString)).toBe(said("hi"));
      const stream = feed.talk(two.tokenString);
      stream.write("one");
      await once(stream, "data");
      const ended = end(stream);
      await path.set({ kind: "blackhole" });
      const begun = performance.now();
      await revoke(one.id); // waits until the client's lease is over
      expect(await feed.call("Say", one.tokenString)).toBe("14 UNDETERMINED");
      expect(await ended).toBe("14 UNDETERMINED");
      expect(performance.now() - begun).toBeLessThan(10_000);
      const leases = await feed.seen("lease");
      // The old connections have lost bytes, so they must break.
      await path.set({ kind: "reset" });
      await path.set({ kind: "pass" });
      await expect.poll(() => feed.seen("lease"), { timeout: 20_000 }).toBeGreaterThan(leases);
      await expect.poll(() => feed.call("Say", two.tokenString), { timeout: 20_000 }).toBe(said("hi"));
      expect(await feed.call("Say", one.tokenString)).toBe("16 INVALID_TOKEN");
    });

    test("leaves the feed in good order", async () => {
      expect(await feed.stop()).toBe(1);
    });
  });

  describe("the lines to copy", () => {
    /** The package as pip installs it, and the examples beside it. */
    let place: string;
    beforeAll(async () => {
      place = await mkdtemp(join(tmpdir(), "sallyport-python-client-"));
      const copy = join(place, "copy"); // setuptools writes into the folder
      const wanted = (file: string) => !/__pycache__|\.egg-info|\/build$/.test(file);
      await cp(CLIENT, copy, { recursive: true, filter: wanted });
      await cp(join(CLIENT, "../README.md"), join(place, "README.md"));
      const flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"];
      await exec("python3", ["-m", "pip", "install", ...flags, "--root-user-action=ignore", "--target", place, copy], {
        env: { ...process.env, PYTHONPATH: library },
      });
    });
    afterAll(() => rm(place, { recursive: true, force: true }));
    const snippet = async (page: string) =>
      /```python\n([\s\S]*?)```/.exec(await readFile(join(CLIENT, page), "utf8"))![1]!;
    const run = (code: string, ...args: string[]) =>
      exec("python3", ["-c", code, ...args], { cwd: place, env: environment(place) }).then(({ stdout }) => stdout);

    test("the package has its types and its generated code", async () => {
      expect(await run("import sallyport; print(sallyport.__file__)")).toContain(place);
      for (const file of ["py.typed", "gen/sallyport/v1/token_validator_pb2.pyi", "aio/interceptor.py"])
        expect(existsSync(join(place, "sallyport", file)), file).toBe(true);
    });

    test("the client's README makes a server of them", async () => {
      const lines = (await snippet("README.md")).replace("127.0.0.1:7400", target).replaceAll(/^/gm, "    ");
      const code = `import asyncio, grpc.aio\nasync def main():\n${lines}
    while checker.cache.lease == 0:
        await asyncio.sleep(0.01)
    print((await checker.check("opaque")).verdict)
    await checker.close()
asyncio.run(main())`;
      expect(await run(code)).toBe("INVALID_TOKEN\n");
    });

    test("the page about clients asks about one token", async () => {
      const lines = await snippet("../../docs/clients.md");
      const { tokenString } = await sallyport.createToken({ scopes: ["orders.*"] });
      expect(await run(lines, target, tokenString)).toBe("user:ann default\n");
      const narrow = await sallyport.createToken({ scopes: ["stock.read"] });
      expect(await run(lines, target, narrow.tokenString)).toBe("INSUFFICIENT_SCOPE orders.read\n");
    });

    test("the example and the lines of its README: a token is admitted, revoked and refused", async () => {
      const changes = [
        ["127.0.0.1:7400", target],
        [".cache/venv/bin/python", "python3"],
        ["orders.token", `${place}/orders.token`],
      ] as const;
      const service = await ExampleService.start(new ExamplePage("python", sallyport, changes, environment(place)));
      try {
        const { said, stated } = await service.follow();
        expect(stated).toEqual(["order 7 for user:ann", "UNAUTHENTICATED INVALID_TOKEN"]);
        expect(said).toEqual(stated);
        const narrow = await sallyport.createToken({ scopes: ["stock.read"] });
        await writeFile(join(place, "narrow.token"), narrow.tokenString);
        expect(await service.ask(`python3 examples/python/client.py PORT ${place}/narrow.token`)).toEqual([
          "PERMISSION_DENIED INSUFFICIENT_SCOPE",
        ]);
        expect(await service.stop()).toEqual([0, null]);
      } finally {
        service.kill();
      }
    });
  });
});
