// `npm run release`: dist/sallyport-VERSION.tar.gz (source and production packages, to unpack and run with Node 24), its
// CycloneDX bill of materials and SHA256SUMS. The same commit gives the same bytes: `-- --out DIR` makes another copy to compare.
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";

const exec = promisify(execFile);
const ROOT = join(import.meta.dirname, "..");
/** The tracked files of a release. */
const CONTENTS = [
  ...["package.json", "package-lock.json", ".npmrc", "LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md"],
  ...["src", "proto", "deploy", "docs", "scripts/node24.mjs"],
];

/** Writes the release of HEAD into a folder. Returns the names of its files. */
export async function release(out: string): Promise<readonly string[]> {
  const git = async (...args: string[]) => (await exec("git", args, { cwd: ROOT })).stdout.trim();
  const commit = await git("rev-parse", "HEAD");
  const time = await git("show", "--no-patch", "--format=%ct", commit);
  const staging = await mkdtemp(join(tmpdir(), "sallyport-release-"));
  try {
    const archive = join(staging, "source.tar");
    await git("archive", "--format=tar", `--output=${archive}`, commit, "--", ...CONTENTS);
    const { version } = JSON.parse(await git("show", `${commit}:package.json`)) as { version: string };
    const name = `sallyport-${version}`;
    const tree = join(staging, name);
    await mkdir(tree);
    await exec("tar", ["-xf", archive, "-C", tree]);
    await writeFile(join(tree, "COMMIT"), `${commit}\n`);
    await install(tree);
    const bill = await materials(tree);
    await writeFile(join(tree, "sbom.cdx.json"), bill);
    await pack(tree, time);

    await mkdir(out, { recursive: true });
    const files = { [`${name}.cdx.json`]: Buffer.from(bill), [`${name}.tar.gz`]: await readFile(`${tree}.tar.gz`) };
    const sums = Object.entries(files).map(
      ([file, bytes]) => `${createHash("sha256").update(bytes).digest("hex")}  ${file}\n`,
    );
    for (const [file, bytes] of Object.entries(files)) await writeFile(join(out, file), bytes);
    await writeFile(join(out, "SHA256SUMS"), sums.join(""));
    return [...Object.keys(files), "SHA256SUMS"];
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

/** Optional packages stay out: they are the embedded PostgreSQL and a second Node, of one platform. */
async function install(tree: string): Promise<void> {
  await exec("npm", ["ci", "--omit=dev", "--omit=optional", "--ignore-scripts", "--prefer-offline"], { cwd: tree });
  // It names the registry that this machine uses.
  await rm(join(tree, "node_modules/.package-lock.json"), { force: true });
}

/**
 * The bill of materials of what is installed, without what differs from run to run and from machine to machine. npm gets a
 * lock file of these packages alone, because `--omit=dev` also leaves out production packages that a development one uses.
 */
async function materials(tree: string): Promise<string> {
  const { name, version, description, license, dependencies } = await json(join(tree, "package.json"));
  const root = { name, version, description, license, dependencies };
  const lock = await json(join(tree, "package-lock.json"));
  const installed = Object.entries(lock["packages"] as object).filter(
    ([path]) => path !== "" && existsSync(join(tree, path, "package.json")),
  );
  const room = `${tree}-materials`;
  await mkdir(room);
  await writeFile(join(room, "package.json"), JSON.stringify(root));
  const packages = { "": root, ...Object.fromEntries(installed) };
  await writeFile(join(room, "package-lock.json"), JSON.stringify({ ...lock, packages }));
  const args = ["sbom", "--sbom-format=cyclonedx", "--package-lock-only"];
  const { stdout } = await exec("npm", args, { cwd: room, maxBuffer: 1 << 26 });
  const bill = JSON.parse(stdout) as {
    serialNumber?: string;
    metadata: { timestamp?: string; tools?: unknown; component: { name: string } };
  };
  delete bill.serialNumber;
  delete bill.metadata.timestamp;
  delete bill.metadata.tools;
  bill.metadata.component.name = "sallyport"; // npm takes the name of the folder
  return `${JSON.stringify(bill, undefined, 2)}\n`;
}

async function json(file: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
}

/** Order, owner, mode and time do not depend on this machine. */
async function pack(tree: string, time: string): Promise<void> {
  const same = ["--sort=name", `--mtime=@${time}`, "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"];
  const file = `${tree}.tar`;
  await exec("tar", [...same, "--format=gnu", "-C", join(tree, ".."), "-cf", file, tree.split("/").at(-1)!]);
  await exec("gzip", ["-n", "-9", file]);
}

if (import.meta.main) {
  const at = process.argv.indexOf("--out");
  const out = resolve(at < 0 ? "dist" : (process.argv[at + 1] ?? "dist"));
  const changed = (await exec("git", ["status", "--porcelain", "--untracked-files=no"], { cwd: ROOT })).stdout;
  if (changed === "") for (const file of await release(out)) console.log(join(out, file));
  else {
    console.error("tracked files have changes, and a release is of a commit: commit them first");
    process.exitCode = 1;
  }
}
