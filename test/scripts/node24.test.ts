import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { folder } from "../support/program.ts";

/* The scripts of package.json find a Node that can run them, however npm laid out node_modules. */
const ROOT = join(import.meta.dirname, "../..");
const { scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { scripts: Record<string, string> };
/** Makes the running Node report an old version. */
const OLD = `--import=data:text/javascript,${encodeURIComponent('Object.defineProperty(process,"version",{value:"v20.20.2"})')}`;

let place: ReturnType<typeof folder>;
beforeEach(() => {
  place = folder();
  mkdirSync(join(place.path, "scripts"));
  for (const file of ["package.json", "scripts/node24.mjs"]) cpSync(join(ROOT, file), join(place.path, file));
});
afterEach(() => place.remove());

const give = (...packages: string[]) => {
  mkdirSync(join(place.path, "node_modules"), { recursive: true });
  for (const name of packages) symlinkSync(join(ROOT, "node_modules", name), join(place.path, "node_modules", name));
};
/** Runs a command as npm does, with only a Node (which reports an old version) in PATH. */
const shell = (command: string, { old = true } = {}) => {
  const { status, stdout, stderr } = spawnSync("sh", ["-c", command], {
    cwd: place.path,
    encoding: "utf8",
    env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, ...(old && { NODE_OPTIONS: OLD }) },
  });
  return { status, stdout, stderr };
};
const BUNDLED = `node-${process.platform}-${process.arch}`;

test.each(Object.entries(scripts))("npm run %s begins with the look for Node 24", (_, script) => {
  expect(script).toMatch(/^eval "\$\(node scripts\/node24\.mjs\)" && /);
});

describe.each(["start", "test", "sallyport", "types", "lint"])("npm run %s, with an old Node", (name) => {
  test("before npm ci, and after npm ci --omit=optional: one line says what to install, exit 78", () => {
    for (const packages of [undefined, ["zod"]]) {
      if (packages !== undefined) give(...packages);
      const { status, stdout, stderr } = shell(scripts[name]!);
      expect([status, stdout]).toEqual([78, ""]);
      expect(stderr).toMatch(/^sallyport: Node 24 or newer is needed, and this is Node v20\.20\.2: run npm ci.*\n$/);
    }
  });
});

test("with a new Node, before npm ci: one line says what to do, exit 78", () => {
  const { status, stdout, stderr } = shell(scripts["start"]!, { old: false });
  expect([status, stdout, stderr]).toEqual([78, "", "sallyport: the packages are not installed: run npm ci\n"]);
});

test("the bundled Node is found without a link to it, and a new Node of the machine is used", () => {
  give("zod");
  const path = 'eval "$(node scripts/node24.mjs)" && echo "$PATH"';
  expect(shell(path, { old: false }).stdout.split(":").slice(0, 2)).toEqual([
    dirname(process.execPath),
    join(place.path, "node_modules/.bin"),
  ]);
  give(BUNDLED);
  const { stdout, stderr } = shell(path);
  expect(stderr).toBe("");
  expect(stdout.split(":").slice(0, 2)).toEqual([
    join(ROOT, "node_modules", BUNDLED, "bin"),
    join(place.path, "node_modules/.bin"),
  ]);
});

test("compiled files are kept beside the packages, or where the environment says", () => {
  give("zod");
  const cache = 'eval "$(node scripts/node24.mjs)" && printenv NODE_COMPILE_CACHE';
  expect(shell(cache, { old: false }).stdout).toBe(`${join(place.path, "node_modules/.cache/node")}\n`);
  expect(shell(`NODE_COMPILE_CACHE=/elsewhere; export NODE_COMPILE_CACHE; ${cache}`, { old: false }).stdout).toBe(
    "/elsewhere\n",
  );
});
