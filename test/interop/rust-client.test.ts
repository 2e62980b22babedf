import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { file_sallyport_v1_token_validator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";
import { Testee } from "../support/testee.ts";
import { testeeSuite } from "../support/testee-suite.ts";

/* The Rust client in its echo service, with the real program. Its unit tests run first. Skipped without cargo and its crates. */
const CLIENT = join(import.meta.dirname, "../../clients/rust");
const TARGET = join(import.meta.dirname, "../../.cache/rust/target");
const BUILD_MS = 400_000;
const env = { ...process.env, CARGO_TARGET_DIR: TARGET };
const cargo = (...args: string[]) => promisify(execFile)("cargo", [...args, "--locked"], { cwd: CLIENT, env });
/** The reason of the skip, for the names of the skipped tests. */
const without = await cargo("fetch").then(
  () => "",
  ({ message }: Error) => ` (no cargo with its crates: ${message.trim().split("\n").at(-1)})`,
);

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

describe.skipIf(without !== "")(`the Rust client${without}`, () => {
  let sallyport: TestSallyport;
  let path: TcpProxy;
  beforeAll(async () => {
    await cargo("build", "--example", "testee");
    sallyport = await TestSallyport.start();
    await sallyport.admin.tenants.createTenant({ tenant: { id: "another" } });
    path = await startTcpProxy({ port: Number(new URL(sallyport.listeners.data).port) });
  }, BUILD_MS);
  afterAll(async () => {
    await path?.stop();
    await sallyport?.stop();
  });

  test(
    "satisfies the vectors",
    async () => {
      const { stdout } = await cargo("test", "--lib");
      expect(stdout).toMatch(/test result: ok\. \d{2,} passed; 0 failed; 1 ignored/);
    },
    BUILD_MS,
  );

  testeeSuite(
    () => ({ sallyport, path }),
    (cache) =>
      Testee.start(join(TARGET, "debug/examples/testee"), [], {
        cwd: CLIENT,
        env: { ...env, SALLYPORT: `127.0.0.1:${path.port}`, CACHE: cache },
      }),
  );
});
