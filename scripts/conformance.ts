// Runs the Connect conformance suite against src/http2/, and prints `N passed, N failed, N skipped`.
// test/conformance/config.yaml lists the features that are not supported, with the reasons. The runner and its schema
// come from the Go module proxy. Without a Go toolchain the run is skipped, with a message.
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fetchProgram } from "./fetch.ts";

const MODULE = "connectrpc.com/conformance@v1.0.7";
const ROOT = join(import.meta.dirname, "..");

try {
  const runner = await fetchProgram("connectconformance");
  process.exitCode = run(runner, schemaOf());
} catch (error) {
  console.log(`skipped: no conformance runner: ${(error as Error).message.split("\n")[0]}`);
  console.log("0 passed, 0 failed, 1 skipped");
}

/** The messages of the runner, as descriptors. */
function schemaOf(): string {
  const output = execFileSync("go", ["mod", "download", "-json", MODULE], {
    encoding: "utf8",
    env: { ...process.env, GOFLAGS: "-mod=mod" },
  });
  const file = join(ROOT, ".cache/conformance.binpb");
  const { Dir } = JSON.parse(output) as { Dir: string };
  execFileSync(join(ROOT, "node_modules/.bin/buf"), ["build", join(Dir, "proto"), "-o", file]);
  return file;
}

function run(runner: string, schema: string): number {
  const at = (file: string) => join(ROOT, "test/conformance", file);
  const server = [process.execPath, at("server.ts"), schema];
  const known = at("known-failing.txt");
  const args = ["--mode", "server", "--conf", at("config.yaml"), "--known-failing", `@${known}`, "--", ...server];
  const { stdout, stderr, status } = spawnSync(runner, args, {
    encoding: "utf8",
    timeout: 120_000,
    maxBuffer: 1 << 26,
  });
  const output = `${stdout}${stderr}`;
  const counted = /Total cases: (\d+)\n(\d+) passed, (\d+) failed/.exec(output);
  if (status !== 0 || counted === null) console.log(output.slice(-20_000));
  const [, , passed = 0, failed = 1] = (counted ?? []).map(Number);
  const expected = Number(/Another (\d+) failed as expected/.exec(output)?.[1] ?? 0);
  if (expected > 0) console.log(`skipped: ${readFileSync(known, "utf8").replaceAll(/^# /gm, "")}`);
  console.log(`${passed} passed, ${failed} failed, ${expected} skipped`);
  return status === 0 && counted !== null ? 0 : 1;
}
