import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const SRC = join(import.meta.dirname, "../../src");
const SCRATCH = join(import.meta.dirname, "../../.cache/simulation");

/** The program's own code, in the parts that the simulation uses. */
export type Product = typeof import("../../src/domain/errors.ts") &
  typeof import("../../src/domain/freshness.ts") &
  typeof import("../../src/domain/keyring.ts") &
  typeof import("../../src/domain/token-snapshot.ts") &
  typeof import("../../src/domain/token-string.ts") &
  typeof import("../../src/validation/lookup.ts") &
  typeof import("../../src/validation/validate.ts") &
  typeof import("../../src/revocation/follower.ts") &
  typeof import("../../src/revocation/housekeeping.ts") &
  typeof import("../../src/revocation/reaped-validators.ts") &
  typeof import("../../src/revocation/change-authority.ts") &
  typeof import("../../src/feed/entries.ts") &
  typeof import("../../src/feed/names.ts") &
  typeof import("../../src/feed/server.ts");

const MODULES = [
  "domain/errors.ts",
  "domain/freshness.ts",
  "domain/keyring.ts",
  "domain/token-snapshot.ts",
  "domain/token-string.ts",
  "validation/lookup.ts",
  "validation/validate.ts",
  "revocation/follower.ts",
  "revocation/housekeeping.ts",
  "revocation/reaped-validators.ts",
  "revocation/change-authority.ts",
  "feed/entries.ts",
  "feed/names.ts",
  "feed/server.ts",
];

/** One replacement in one module's text. `from` occurs exactly `times` times, by default once. */
export interface Patch {
  readonly file: string;
  readonly from: string;
  readonly to: string;
  readonly times?: number;
}

/** The unchanged program. */
export function loadProduct(): Promise<Product> {
  return load(SRC);
}

/** The program with changed text: a copy, loaded from its own folder. */
export async function loadMutant(patches: readonly Patch[]): Promise<Product> {
  await mkdir(SCRATCH, { recursive: true });
  const root = await mkdtemp(join(SCRATCH, "mutant-"));
  try {
    const folders = ["domain", "telemetry", "validation", "revocation", "feed", "management"];
    for (const folder of folders) await cp(join(SRC, folder), join(root, folder), { recursive: true });
    for (const { file, from, to, times = 1 } of patches) {
      const text = await readFile(join(root, file), "utf8");
      const found = text.split(from).length - 1;
      if (found !== times) throw new Error(`${file} has ${found} times, not ${times}: ${from}`);
      await writeFile(join(root, file), text.replaceAll(from, to));
    }
    return await load(root);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

async function load(root: string): Promise<Product> {
  const urls = MODULES.map((module) => pathToFileURL(join(root, module)).href);
  const loaded = await Promise.all(urls.map((url) => import(/* @vite-ignore */ url)));
  return Object.assign({}, ...loaded) as Product;
}
