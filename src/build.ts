import { readFileSync } from "node:fs";
import { join } from "node:path";

/**
 * The running build: the version of package.json, and the commit of a checkout or of a release; "unknown" if neither
 * names it.
 */
export function build(): { readonly version: string; readonly commit: string } {
  const { version } = JSON.parse(read("package.json") ?? "{}") as { version?: string };
  return { version: version ?? "unknown", commit: (read("COMMIT") ?? checkedOut() ?? "unknown").slice(0, 12) };
}

function checkedOut(): string | undefined {
  const head = read(".git/HEAD");
  const ref = head?.startsWith("ref: ") ? head.slice(5) : undefined;
  if (ref === undefined) return head;
  const packed = () =>
    read(".git/packed-refs")
      ?.split("\n")
      .find((line) => line.endsWith(` ${ref}`));
  return read(`.git/${ref}`) ?? packed()?.split(" ")[0];
}

/** A file of the program's own folder; undefined where there is none. */
function read(path: string): string | undefined {
  try {
    return readFileSync(join(import.meta.dirname, "..", path), "utf8").trim();
  } catch {
    return undefined;
  }
}
