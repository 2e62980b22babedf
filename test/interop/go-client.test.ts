import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { Client, credentials, Metadata, type StatusObject } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { file_sallyport_v1_token_validator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { TestSallyport } from "../support/sallyport.ts";

/* The Go client in its example service, with the real program. Its unit tests run first. Skipped without Go. */
const CLIENT = join(import.meta.dirname, "../../clients/go");
const BUILD_MS = 400_000;
const exec = promisify(execFile);
const PATH = `${process.env["PATH"]}:/usr/local/go/bin`;
const hasGo = (() => {
  try {
    return execFileSync("go", ["version"], { env: { ...process.env, PATH } }).length > 0;
  } catch {
    return false;
  }
})();
const serialize = (text: string) =>
  Buffer.from(toBinary(StringValueSchema, create(StringValueSchema, { value: text })));
const deserialize = (bytes: Buffer) => fromBinary(StringValueSchema, bytes).value;

test("the Go client's generated code has every field of the proto", async () => {
  const code = await readFile(join(CLIENT, "gen/sallyportv1/token_validator.pb.go"), "utf8");
  const fields = file_sallyport_v1_token_validator.messages.flatMap((message) => message.fields);
  expect(fields.length).toBeGreaterThan(20);
  for (const { name, number } of fields)
    expect(code).toMatch(new RegExp(`protobuf:"\\w+,${number},[^"]*name=${name}[,"]`));
  for (const { name } of file_sallyport_v1_token_validator.enums.flatMap(({ values }) => values)) {
    expect(code).toContain(`Verdict_${name} `);
  }
});

describe.skipIf(!hasGo)(`the Go client${hasGo ? "" : " (there is no Go)"}`, () => {
  let place: string;
  let sallyport: TestSallyport;
  const examples: ChildProcess[] = [];
  let client: Client;
  const go = (...args: string[]) => exec("go", args, { cwd: CLIENT, env: { ...process.env, PATH } });
  beforeAll(async () => {
    place = await mkdtemp(join(tmpdir(), "sallyport-go-client-"));
    await go("build", "-o", join(place, "server"), "./examples/server");
    sallyport = await TestSallyport.start();
    client = await serve();
  }, BUILD_MS);
  afterAll(async () => {
    client?.close();
    for (const example of examples) example.kill("SIGKILL");
    await sallyport?.stop();
    await rm(place, { recursive: true, force: true });
  });

  /** A client of a new example service. */
  const serve = async (more: NodeJS.ProcessEnv = {}) => {
    const env = { ...process.env, SALLYPORT: new URL(sallyport.listeners.data).host, ...more };
    const example = spawn(join(place, "server"), { env, stdio: ["ignore", "pipe", "inherit"] });
    examples.push(example);
    const [line] = (await once(createInterface({ input: example.stdout! }), "line")) as [string];
    return new Client(`127.0.0.1:${JSON.parse(line).port}`, credentials.createInsecure());
  };
  const meta = (bearer?: string) => {
    const metadata = new Metadata();
    if (bearer !== undefined) metadata.set("authorization", `Bearer ${bearer}`);
    return metadata;
  };
  const refusal = ({ code, metadata }: StatusObject) => `${code} ${metadata.get("sallyport-verdict")[0]}`;
  const get = (bearer?: string, from = client): Promise<string> =>
    new Promise((resolve) =>
      from.makeUnaryRequest("/shop.v1.Orders/Get", serialize, deserialize, "7", meta(bearer), (error, answer) =>
        resolve(error === null ? answer! : refusal(error)),
      ),
    );
  const talk = (bearer: string) =>
    client.makeBidiStreamRequest("/shop.v1.Orders/Talk", serialize, deserialize, meta(bearer));
  const revoke = (id: string) => sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } });

  test(
    "satisfies the vectors",
    async () => {
      await go("vet", "./...");
      expect((await go("test", ".")).stdout).toMatch(/^ok/);
    },
    BUILD_MS,
  );

  test("admits a live token and refuses others, each with its status", async () => {
    const { tokenString, id } = await sallyport.createToken({ scopes: ["orders.*"] });
    expect(await get(tokenString)).toBe("order 7 for user:ann");
    expect(await get()).toBe("16 NO_CREDENTIAL");
    expect(await get("sp_pat_nonsense")).toBe("16 INVALID_TOKEN");
    expect(await get((await sallyport.createToken({ scopes: ["stock.read"] })).tokenString)).toBe(
      "7 INSUFFICIENT_SCOPE",
    );
    await revoke(id);
    expect(await get(tokenString)).toBe("16 INVALID_TOKEN");
  });

  test("admits a token in a further tenant until it is detached", async () => {
    await sallyport.admin.tenants.createTenant({ tenant: { id: "another" } });
    for (const CACHE of ["off", "feed"]) {
      const another = await serve({ TENANT: "another", CACHE });
      const { tokenString, id } = await sallyport.createToken({ scopes: ["orders.*"], tenants: ["another"] });
      expect(await get(tokenString, another)).toBe("order 7 for user:ann");
      await sallyport.admin.tokens.detachTenant({ tenant: "another", id });
      expect(await get(tokenString, another)).toBe("7 WRONG_TENANT");
      expect(await get(tokenString)).toBe("order 7 for user:ann");
      another.close();
    }
  });

  test("passes a stream's messages, and ends the stream when its token is revoked", async () => {
    const { tokenString, id } = await sallyport.createToken();
    const stream = talk(tokenString);
    stream.write("one");
    expect(await once(stream, "data")).toEqual(["one"]);
    const ended = once(stream, "error") as Promise<[StatusObject]>;
    await revoke(id);
    expect(refusal((await ended)[0])).toBe("16 INVALID_TOKEN");
  });

  test("ends well a stream that ends by itself", async () => {
    const stream = talk((await sallyport.createToken()).tokenString);
    const texts: string[] = [];
    stream.on("data", (text) => texts.push(text));
    for (const text of ["one", "two"]) stream.write(text);
    stream.end();
    await once(stream, "end");
    expect(texts).toEqual(["one", "two"]);
  });
});
