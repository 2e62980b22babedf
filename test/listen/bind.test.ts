import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { StartError } from "../../src/domain/start-error.ts";
import { listen, parseBind } from "../../src/listen/bind.ts";

const folder = mkdtempSync(join(tmpdir(), "sallyport-listen-"));
afterAll(() => rmSync(folder, { recursive: true }));

const problem = async (attempt: Promise<unknown>): Promise<string> => {
  const error = await attempt.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(StartError);
  return (error as StartError).kind;
};

const started: Server[] = [];
afterAll(() => {
  for (const one of started) one.close();
});
async function serve(bind: string, mode = 0o600): Promise<Server> {
  const server = createServer();
  started.push(server);
  await listen(server, parseBind(bind), mode);
  return server;
}

describe("parseBind", () => {
  test.each([
    ["127.0.0.1:7400", { host: "127.0.0.1", port: 7400 }],
    ["[::1]:0", { host: "::1", port: 0 }],
    ["localhost:80", { host: "localhost", port: 80 }],
    ["unix:/run/x.sock", { path: "/run/x.sock" }],
  ])("%s", (text, bind) => {
    expect(parseBind(text)).toEqual(bind);
  });

  test.each(["", "7400", "localhost", "a:b", "a:99999", "unix:relative", `unix:/${"x".repeat(107)}`, "::1:80"])(
    "%s is a bad address",
    (text) => {
      expect(() => parseBind(text)).toThrow(StartError);
    },
  );

  test("a socket path that is too long for the kernel is refused, with its length", () => {
    expect(() => parseBind(`unix:/${"x".repeat(110)}`)).toThrow(/at most 107 bytes, this one 111/);
  });
});

describe("listen", () => {
  test("a port that is taken is ADDRESS_IN_USE", async () => {
    const first = await serve("127.0.0.1:0");
    const { port } = first.address() as { port: number };
    expect(await problem(serve(`127.0.0.1:${port}`))).toBe("address_in_use");
  });

  test("an address of another machine is a bad address", async () => {
    expect(await problem(serve("192.0.2.1:0"))).toBe("address_invalid");
  });

  test("a folder that does not exist is a bad address", async () => {
    expect(await problem(serve(`unix:${folder}/none/x.sock`))).toBe("address_invalid");
  });

  test.each([0o600, 0o660, 0o666])("a socket file has its mode from the start, with any umask: %s", async (mode) => {
    const before = process.umask(0o022);
    try {
      await serve(`unix:${folder}/mode-${mode}.sock`, mode);
      expect(statSync(`${folder}/mode-${mode}.sock`).mode & 0o777).toBe(mode);
      expect(process.umask()).toBe(0o022);
    } finally {
      process.umask(before);
    }
  });

  test("a socket that another server serves is left alone", async () => {
    const path = `${folder}/alive.sock`;
    await serve(`unix:${path}`);
    expect(await problem(serve(`unix:${path}`))).toBe("address_in_use");
    expect(statSync(path).isSocket()).toBe(true);
  });

  test("a socket whose server was killed is taken over", async () => {
    const path = `${folder}/stale.sock`;
    const program = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
    spawnSync(process.execPath, ["-e", program]);
    expect(statSync(path).isSocket()).toBe(true);
    const server = await serve(`unix:${path}`);
    expect(server.listening).toBe(true);
  });

  test("a file that is no socket is never removed", async () => {
    const path = `${folder}/file`;
    writeFileSync(path, "precious");
    expect(await problem(serve(`unix:${path}`))).toBe("address_invalid");
    expect(statSync(path).isFile()).toBe(true);
  });
});
