// Runs every case of h2spec, strict, against the built-in server, and prints `N passed, N failed`. h2spec is built from
// the Go module proxy into .cache. Without a Go toolchain the run is skipped, with a message.
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { http } from "../src/http2/unary/reply.ts";
import { createUnaryListener } from "../test/http2/unary-listener.ts";

const MODULE = "github.com/summerwind/h2spec";
// h2spec does not pin its dependencies, so they are pinned here.
const PINS = [
  `${MODULE}@v2.2.1+incompatible`,
  "golang.org/x/net@v0.62.0",
  "github.com/spf13/cobra@v1.10.2",
  "github.com/fatih/color@v1.19.0",
];
const cache = join(import.meta.dirname, "..", ".cache");
const binary = join(cache, "h2spec");

if (build()) await run();

/** Returns true if there is a binary to run. */
function build(): boolean {
  if (existsSync(binary)) return true;
  if (spawnSync("go", ["version"]).status !== 0) {
    console.log("h2spec skipped: no Go toolchain to build it with");
    return false;
  }
  const folder = join(cache, "h2spec-build");
  mkdirSync(folder, { recursive: true });
  const go = (...args: string[]) => execFileSync("go", args, { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
  try {
    if (!existsSync(join(folder, "go.mod"))) go("mod", "init", "h2spec-build");
    go("get", ...PINS);
    go("build", "-o", binary, `${MODULE}/cmd/h2spec`);
    return true;
  } catch {
    console.log("h2spec skipped: it could not be built from the module proxy");
    return false;
  }
}

async function run(): Promise<void> {
  const page = http(200, [["content-type", "text/plain"]], Buffer.from("an answer of more than one octet\n"));
  const root = { handler: () => page, maxMessage: 65_536, deadlineMs: 10_000, kind: "http" as const };
  const { listener, server } = createUnaryListener({
    routes: { exact: new Map([["/", root]]), prefix: [] },
    trust: "untrusted",
    onHttp1: (socket) => socket.destroy(),
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const { port } = listener.address() as AddressInfo;
  const output = await specification(port);
  server.close();
  listener.close();

  const counts = /(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed/.exec(output);
  const [, , passed = "0", skipped = "0", failed = "1"] = counts ?? [];
  if (counts === null || failed !== "0") console.log(output);
  console.log(`h2spec strict: ${passed} passed, ${failed} failed${skipped === "0" ? "" : `, ${skipped} skipped`}`);
  process.exitCode = failed === "0" ? 0 : 1;
}

function specification(port: number): Promise<string> {
  const options = ["--strict", "--timeout", "2", "-h", "127.0.0.1", "-p", String(port)];
  const child = spawn(binary, options, { stdio: ["ignore", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    let output = "";
    child.stdout.on("data", (bytes: Buffer) => {
      output += bytes.toString();
    });
    child.on("error", reject);
    child.on("close", () => resolve(output));
  });
}
