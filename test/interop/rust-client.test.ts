import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Client, credentials, Metadata, type StatusObject } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { file_sallyport_v1_token_validator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";

/* The Rust client in its echo service, with the real program. Its unit tests run first. Skipped without cargo. */
const CLIENT = join(import.meta.dirname, "../../clients/rust");
const TARGET = join(import.meta.dirname, "../../.cache/rust/target");
const BUILD_MS = 400_000;
const env = { ...process.env, CARGO_TARGET_DIR: TARGET };
const hasCargo = (() => {
  try {
    return execFileSync("cargo", ["--version"]).length > 0;
  } catch {
    return false;
  }
})();
const cargo = (...args: string[]) => promisify(execFile)("cargo", [...args, "--locked"], { cwd: CLIENT, env });

test("the Rust client's generated code has every field of the proto", async () => {
  const code = await readFile(join(CLIENT, "src/gen/sallyport.v1.rs"), "utf8");
  const { messages, enums } = file_sallyport_v1_token_validator;
  expect(messages.length).toBeGreaterThan(5);
  for (const { name, fields } of messages) {
    const section = code.split(/^pub struct /m).find((text) => text.startsWith(`${name} {`));
    for (const field of fields)
      expect(section, name).toMatch(new RegExp(`tag="${field.number}"\\)\\]\\n {4}pub ${field.name}:`));
  }
  for (const { name } of enums.flatMap(({ values }) => values)) expect(code).toContain(`"${name}"`);
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

  static async start(target: string, cache: string): Promise<Testee> {
    const child = spawn(join(TARGET, "debug/examples/testee"), {
      env: { ...env, SALLYPORT: target, CACHE: cache },
      stdio: ["pipe", "pipe", "inherit"],
    });
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

  total(bearer: string, texts: readonly string[]): Promise<string> {
    return new Promise((resolve) => {
      const call = this.#client.makeClientStreamRequest(path("Total"), encode, decode, meta(bearer), (error, answer) =>
        resolve(error === null ? answer! : refusal(error)),
      );
      for (const text of texts) call.write(text);
      call.end();
    });
  }

  /** How often each verdict, lease and state was reported by the hooks. */
  async seen(what: string): Promise<number> {
    return JSON.parse(await this.call("Seen", undefined, "seen"))[what] ?? 0;
  }

  /** Ends it in good order. Returns how often it left the feed. */
  async stop(): Promise<number> {
    this.#client.close();
    this.#process.stdin!.end();
    const { value } = await this.#lines.next();
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
const said = (text: string) => `${text} for user:ann, credential false`;
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

describe.skipIf(!hasCargo)(`the Rust client${hasCargo ? "" : " (there is no cargo)"}`, () => {
  let sallyport: TestSallyport;
  let way: TcpProxy;
  let off: Testee;
  let feed: Testee;
  beforeAll(async () => {
    await cargo("build", "--example", "testee");
    sallyport = await TestSallyport.start();
    await sallyport.admin.tenants.createTenant({ tenant: { id: "another" } });
    way = await startTcpProxy({ port: Number(new URL(sallyport.listeners.data).port) });
    off = await Testee.start(`127.0.0.1:${way.port}`, "off");
    feed = await Testee.start(`127.0.0.1:${way.port}`, "feed");
  }, BUILD_MS);
  afterAll(async () => {
    off?.kill();
    feed?.kill();
    await way?.stop();
    await sallyport?.stop();
  });
  const revoke = (id: string) => sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } });

  test(
    "satisfies the vectors",
    async () => {
      const { stdout } = await cargo("test", "--lib");
      expect(stdout).toMatch(/test result: ok\. \d{2,} passed; 0 failed; 1 ignored/);
    },
    BUILD_MS,
  );

  test("follows the feed", async () => {
    await expect.poll(() => feed.seen("lease"), { timeout: 20_000 }).toBeGreaterThan(0);
  });

  test("admits a live token; the handler sees its identity, and not the credential", async () => {
    const { tokenString } = await sallyport.createToken({ scopes: ["orders.*"] });
    for (const testee of [off, feed]) {
      expect(await testee.call("Say", tokenString)).toBe(said("hi"));
      expect(await testee.call("Write", tokenString)).toBe(said("hi"));
      expect(await testee.total(tokenString, ["one", "two"])).toBe(said("one two"));
    }
    expect(await feed.seen("cache ALLOW")).toBeGreaterThan(0);
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

  test("passes the messages of a stream, and ends a silent one when its token is revoked", async () => {
    for (const testee of [off, feed]) {
      const { tokenString, id } = await sallyport.createToken();
      const stream = testee.talk(tokenString);
      stream.write("one");
      expect(await once(stream, "data")).toEqual([said("one")]);
      const ended = end(stream);
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

  test("ends a stream whose handler sends all the time, and a call whose handler waits for messages", async () => {
    const { tokenString, id } = await sallyport.createToken();
    const count = feed.talk(tokenString, "Count");
    const waits = feed.talk(tokenString, "Total");
    waits.write("one");
    await once(count, "data");
    count.on("data", () => {});
    const ended = Promise.all([end(count), end(waits)]);
    await revoke(id);
    expect(await ended).toEqual(["16 INVALID_TOKEN", "16 INVALID_TOKEN"]);
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
    await way.set({ kind: "blackhole" });
    await revoke(one.id); // waits until the client's lease is over
    expect(await feed.call("Say", one.tokenString)).toBe("14 UNDETERMINED");
    expect(await ended).toBe("14 UNDETERMINED");
    const leases = await feed.seen("lease");
    // The old connections have lost bytes, so they must break.
    await way.set({ kind: "reset" });
    await way.set({ kind: "pass" });
    await expect.poll(() => feed.seen("lease"), { timeout: 20_000 }).toBeGreaterThan(leases);
    await expect.poll(() => feed.call("Say", two.tokenString), { timeout: 20_000 }).toBe(said("hi"));
    expect(await feed.call("Say", one.tokenString)).toBe("16 INVALID_TOKEN");
  });

  test("leaves the feed in good order", async () => {
    expect(await feed.stop()).toBe(1);
  });
});
