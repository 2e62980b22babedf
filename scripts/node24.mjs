// Prints shell code that puts Node 24 and the tools of node_modules first in PATH or, if something is missing, reports
// it on stderr and prints `exit 78`. Every script of package.json begins with it, because not every npm links the
// bundled Node into node_modules/.bin. Runs on any Node. The shell then replaces itself, so that signals and exit codes
// are the program's. Node keeps the compiled files beside the packages: the next start takes less CPU, and needs no
// TypeScript compiler in memory. Where that folder cannot be written, Node goes without.
import { execFileSync } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const require = createRequire(join(root, "package.json"));
const isNew = (version) => Number(/^v?(\d+)/.exec(version)?.[1]) >= 24;

const node = bundled() ?? (isNew(process.version) ? process.execPath : undefined);
if (node === undefined) {
  refuse(
    `Node 24 or newer is needed, and this is Node ${process.version}: run npm ci, without --omit=optional ` +
      "(on Linux x64 and arm64 it brings Node 24), or install Node 24",
  );
} else if (!existsSync(join(root, "node_modules/zod"))) {
  refuse("the packages are not installed: run npm ci");
} else {
  const path = [dirname(node), join(root, "node_modules/.bin"), process.env.PATH].filter(Boolean).join(":");
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const cache = process.env.NODE_COMPILE_CACHE || join(root, "node_modules/.cache/node");
  process.stdout.write(
    `PATH=${quoted(path)}; export PATH; NODE_COMPILE_CACHE=${quoted(cache)}; export NODE_COMPILE_CACHE\n`,
  );
}

/** The Node from the packages for this platform; undefined if there is none, or if it cannot run here. */
function bundled() {
  try {
    const manifest = require.resolve(`node-${process.platform}-${process.arch}/package.json`);
    const file = realpathSync(join(dirname(manifest), "bin/node"));
    if (file === process.execPath) return file;
    return isNew(execFileSync(file, ["--version"], { encoding: "utf8", stdio: "pipe" })) ? file : undefined;
  } catch {
    return undefined;
  }
}

function refuse(why) {
  process.stderr.write(`sallyport: ${why}\n`);
  process.stdout.write("exit 78\n");
}
