// `npm run test:first-contact`: README's two commands in a fresh clone, with npm 10 and the machine's own Node, as a
// newcomer has them. Ends with one plain line.
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";

const ROOT = join(import.meta.dirname, "..");
const READY_MS = 120_000;
const END_MS = 20_000;

const place = mkdtempSync(join(tmpdir(), "sallyport-first-contact-"));
const clone = join(place, "clone");
// Without the entries that npm and our own scripts put before it.
const foreign = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => !folder.includes("node_modules"));
const node = foreign.map((folder) => join(folder, "node")).find((file) => existsSync(file)) ?? process.execPath;
const env: NodeJS.ProcessEnv = {
  PATH: [dirname(node), ...foreign].join(delimiter),
  HOME: process.env["HOME"],
  // Its own listeners, because this machine may already run a Sallyport.
  SALLYPORT_LISTENERS__DATA__BIND: "127.0.0.1:0",
  SALLYPORT_LISTENERS__ADMIN__BIND: "127.0.0.1:0",
  SALLYPORT_LISTENERS__OPS__BIND: "127.0.0.1:0",
};
const results: boolean[] = [];

try {
  const pack = execFileSync("npm", ["pack", "npm@10", "--silent"], { cwd: place, encoding: "utf8" }).trim();
  execFileSync("tar", ["xzf", pack], { cwd: place });
  execFileSync("git", ["clone", "--quiet", ROOT, clone]);
  const npm = join(place, "package/bin/npm-cli.js");
  const version = execFileSync(node, [npm, "--version"], { encoding: "utf8" }).trim();
  console.log(`npm ${version} on Node ${execFileSync(node, ["--version"], { encoding: "utf8" }).trim()}`);

  const before = await run(npm, ["start"]);
  check("npm start before npm ci says what to do", before.code === 78 && /run npm ci/.test(before.text), before.text);
  const installed = await run(npm, ["ci"]);
  check("npm ci", installed.code === 0, installed.text);
  const started = await startAndInterrupt(npm);
  const drained = started.code === 0 && started.text.includes('"event":"stopped"');
  check("npm start, Ctrl-C", drained && /"node":"v(2[4-9]|[3-9]\d)/.test(started.text), started.text);
  const tested = await run(npm, ["test", "--", "test/domain", "test/config/config.test.ts"]);
  check("npm test", tested.code === 0 && / 0 failed/.test(tested.text), tested.text);
  const linted = await run(npm, ["run", "-s", "types"]);
  check("npm run types", linted.code === 0, linted.text);
} finally {
  rmSync(place, { recursive: true, force: true, maxRetries: 5 });
}
const passed = results.filter(Boolean).length;
console.log(`${passed} passed, ${results.length - passed} failed`);
process.exitCode = passed === results.length ? 0 : 1;

function check(what: string, good: boolean, text: string): void {
  results.push(good);
  console.log(`${good ? "ok" : "FAILED"}  ${what}`);
  if (!good) console.log(text.split("\n").slice(-20).join("\n"));
}

/** Runs npm to its end. `onText` may react to its output. */
function run(npm: string, args: readonly string[], onText: (text: string, pid: number) => void = () => {}) {
  // Its own process group, as a shell creates for each command.
  const child = spawn(node, [npm, ...args], { cwd: clone, env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (more: string) => {
      text += more;
      onText(text, child.pid!);
    });
  }
  return new Promise<{ code: number | null; text: string }>((resolve) => {
    child.on("close", (code) => resolve({ code, text }));
  });
}

/** Runs `npm start` until it is ready, then sends SIGINT to the whole group at once, as a terminal does for Ctrl-C. */
async function startAndInterrupt(npm: string) {
  let group = 0;
  let late: NodeJS.Timeout | undefined;
  const end = (ms: number) => {
    clearTimeout(late);
    late = setTimeout(() => group > 0 && process.kill(-group, "SIGKILL"), ms);
  };
  let interrupted = false;
  end(READY_MS);
  const outcome = await run(npm, ["start"], (text, pid) => {
    group = pid;
    if (interrupted || !text.includes('"event":"ready"')) return;
    interrupted = true;
    end(END_MS);
    process.kill(-group, "SIGINT");
  });
  clearTimeout(late);
  return outcome;
}
