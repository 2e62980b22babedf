import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const SRC = join(import.meta.dirname, "../../src");
const SCRATCH = join(import.meta.dirname, "../../.cache/patched");

/** A change of the program's text, which is in the file exactly once. */
export interface Patch {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/**
 * The exports of these files with changed text: folders of the program, copied and loaded from there. Rejects if a text
 * is not there exactly once.
 */
export async function loadPatched(
  folders: readonly string[],
  patches: readonly Patch[],
  files: readonly string[],
): Promise<object> {
  await mkdir(SCRATCH, { recursive: true });
  const root = await mkdtemp(join(SCRATCH, "mutant-"));
  try {
    for (const folder of folders) await cp(join(SRC, folder), join(root, folder), { recursive: true });
    for (const { file, from, to } of patches) {
      const text = await readFile(join(root, file), "utf8");
      const found = text.split(from).length - 1;
      if (found !== 1) throw new Error(`${file} has ${found} times, not once: ${from}`);
      await writeFile(
        join(root, file),
        text.replace(from, () => to),
      );
    }
    const loaded = files.map((file) => import(/* @vite-ignore */ pathToFileURL(join(root, file)).href));
    return Object.assign({}, ...(await Promise.all(loaded))) as object;
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}
