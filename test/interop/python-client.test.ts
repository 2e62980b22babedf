import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fetchProgram } from "../../scripts/fetch.ts";
import { file_sallyport_v1_token_validator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { ExamplePage, ExampleService } from "../support/example.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";
import { Testee } from "../support/testee.ts";
import { testeeSuite } from "../support/testee-suite.ts";

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

const start = (server: string, target: string, cache: string) =>
  Testee.start("python3", ["-m", "testee", server], {
    cwd: CLIENT,
    env: { ...environment(), SALLYPORT: target, CACHE: cache },
  });

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

  test("satisfies the vectors", async () => {
    const { stderr } = await exec("python3", ["-m", "unittest"], { cwd: CLIENT, env: environment() });
    expect(stderr).toMatch(/Ran \d{2,} tests[\s\S]*\nOK\n$/);
  });

  describe.each(["aio", "threads"])("%s", (server) => {
    testeeSuite(
      () => ({ sallyport, path }),
      (cache) => start(server, target, cache),
      // Only the thread of a handler can set the status. A blocked one can but be cancelled.
      { blocked: server === "aio" ? "16 INVALID_TOKEN" : "1 undefined" },
    );
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
