import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fetchProgram } from "../../scripts/fetch.ts";
import { buildJavaClient, javaClassPath } from "../../scripts/java-client.ts";
import { file_sallyport_v1_token_validator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";
import { Testee } from "../support/testee.ts";
import { testeeSuite } from "../support/testee-suite.ts";

/* The Java client in its echo service, with the real program. Its unit tests run first. Skipped without Java and Maven. */
const CLIENT = join(import.meta.dirname, "../../clients/java");
const exec = promisify(execFile);
const BUILD_MS = 400_000;
/** The reason of the skip, for the names of the skipped tests. */
let without = "";
const repository = await fetchProgram("java-client").catch((error: Error) => {
  without = ` (no Java with Maven: ${error.message.split("\n", 1)[0]})`;
  return undefined;
});

test("the Java client's generated code has every field of the proto", async () => {
  const { messages, enums } = file_sallyport_v1_token_validator;
  expect(messages.length).toBeGreaterThan(5);
  const code = (name: string) =>
    readFile(join(CLIENT, "src/main/java/dev/sallyport/client/gen", `${name}.java`), "utf8");
  for (const { name, fields } of messages) {
    const text = await code(name);
    for (const field of fields)
      expect(text, name).toContain(`${field.name.toUpperCase()}_FIELD_NUMBER = ${field.number};`);
  }
  for (const { name, values } of enums)
    for (const value of values) expect(await code(name)).toContain(`${value.name}(${value.number})`);
});

describe.skipIf(repository === undefined)(`the Java client${without}`, () => {
  let sallyport: TestSallyport;
  let path: TcpProxy;
  let built: string;
  beforeAll(async () => {
    built = await buildJavaClient(repository!, "verify");
    sallyport = await TestSallyport.start();
    await sallyport.admin.tenants.createTenant({ tenant: { id: "another" } });
    path = await startTcpProxy({ port: Number(new URL(sallyport.listeners.data).port) });
  }, BUILD_MS);
  afterAll(async () => {
    await path?.stop();
    await sallyport?.stop();
  });

  test("satisfies the vectors", () => {
    expect(built).toMatch(/Tests run: \d{3,}, Failures: 0, Errors: 0, Skipped: 0$/m);
  });

  testeeSuite(
    () => ({ sallyport, path }),
    async (cache) =>
      Testee.start("java", ["-XX:+UseSerialGC", "-cp", await javaClassPath(), "dev.sallyport.client.Testee"], {
        cwd: CLIENT,
        env: { ...process.env, SALLYPORT: `127.0.0.1:${path.port}`, CACHE: cache },
      }),
    // The context of a blocked handler ends with its stream, and no thread of the client is left.
    { ending: { left: 1, unstuck: 1, threads: 0 } },
  );

  test("the README's lines make a server", async () => {
    const page = await readFile(join(CLIENT, "README.md"), "utf8");
    const lines = /```java\n([\s\S]*?)```/.exec(page)![1]!;
    const place = await mkdtemp(join(tmpdir(), "sallyport-java-client-"));
    const file = join(place, "Lines.java");
    await writeFile(
      file,
      `import dev.sallyport.client.*;
import io.grpc.*;
import java.util.Map;
class Lines {
  public static void main(String[] args) throws Exception {
    var orders = ServerServiceDefinition.builder("shop.v1.Orders").build();
    ${lines.replace("127.0.0.1:7400", `127.0.0.1:${path.port}`).replace("(8080,", "(0,")}
    Verdict verdict = Verdict.UNDETERMINED; // as long as the program is slow
    while (verdict == Verdict.UNDETERMINED) verdict = checker.check("opaque", Requirement.LIVE, Origin.UNKNOWN).verdict();
    System.out.print(verdict);
    server.shutdownNow().awaitTermination();
    checker.close();
  }
}`,
    );
    try {
      const { stdout } = await exec("java", ["-cp", await javaClassPath(), file]);
      expect(stdout).toBe("INVALID_TOKEN");
    } finally {
      await rm(place, { recursive: true });
    }
  });
});
