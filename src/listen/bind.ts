import { accessSync, constants, lstatSync, statSync, unlinkSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { dirname } from "node:path";
import { StartError } from "../domain/start-error.ts";

export type Bind = { readonly path: string } | { readonly host: string; readonly port: number };

// sockaddr_un holds 108 bytes, the last a NUL; Node cuts longer paths silently.
const UNIX_PATH_MAX = 107;

/** Parses `127.0.0.1:7400`, `[::1]:7400`, `localhost:7400` or `unix:/path`. Throws StartError address_invalid. */
export function parseBind(bind: string): Bind {
  if (bind.startsWith("unix:")) {
    const path = bind.slice("unix:".length);
    if (!path.startsWith("/")) throw new StartError("address_invalid", `${bind}: a unix socket needs an absolute path`);
    const length = Buffer.byteLength(path);
    if (length > UNIX_PATH_MAX || path.includes("\0"))
      throw new StartError(
        "address_invalid",
        `${bind}: a socket path has at most ${UNIX_PATH_MAX} bytes, this one ${length}`,
      );
    return { path };
  }
  const found = /^(?:\[([0-9a-fA-F:.%]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/.exec(bind);
  const port = Number(found?.[3]);
  if (!found || port > 65_535) throw new StartError("address_invalid", `${bind}: expected host:port or unix:/path`);
  return { host: (found[1] ?? found[2])!, port };
}

/**
 * Listens at what another process binds: Node's cluster asks the primary for it, which has made sure that it is free.
 * Rejects with StartError.
 */
export async function listenShared(server: Server, bind: Bind): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => reject(bindError(bind, error)));
    server.listen({ ...bind, backlog: 511 }, resolve);
  });
}

/**
 * Listens, or rejects with StartError. A socket file is created with its mode, so that others can connect at no moment.
 * An existing one is removed only after a connect to it was refused.
 */
export async function listen(server: Server, bind: Bind, unixMode: number): Promise<void> {
  if ("path" in bind) await removeStale(bind.path);
  await new Promise<void>((resolve, reject) => {
    const failed = (error: NodeJS.ErrnoException): void => reject(bindError(bind, error));
    server.once("error", failed);
    const listening = (): void => {
      server.off("error", failed);
      resolve();
    };
    if (!("path" in bind)) {
      server.listen({ ...bind, backlog: 511 }, listening);
      return;
    }
    const before = process.umask(0o777 & ~unixMode); // bind() happens inside listen(), before it returns
    try {
      server.listen({ path: bind.path, backlog: 511 }, listening);
    } finally {
      process.umask(before);
    }
  });
}

async function removeStale(path: string): Promise<void> {
  if (await isStale(path)) unlinkSync(path);
}

/** True if there is a socket that no process serves. Throws StartError if this path cannot become a socket. */
async function isStale(path: string): Promise<boolean> {
  if (!statSync(dirname(path), { throwIfNoEntry: false })?.isDirectory())
    throw new StartError("address_invalid", `${path}: there is no such folder`);
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there === undefined) return false;
  if (!there.isSocket()) throw new StartError("address_invalid", `${path} exists and is not a socket`);
  const answer = await new Promise<string>((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve("alive");
    });
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? "unknown"));
  });
  if (answer === "ENOENT") return false;
  if (answer !== "ECONNREFUSED") throw new StartError("address_in_use", `another process serves ${path}`);
  return true;
}

/** Checks that one could listen there now. Leaves nothing behind. Rejects with StartError. */
export async function assertFree(bind: Bind): Promise<void> {
  if ("path" in bind) {
    await isStale(bind.path);
    try {
      accessSync(dirname(bind.path), constants.W_OK);
    } catch (error) {
      throw bindError(bind, error as NodeJS.ErrnoException);
    }
    return;
  }
  const server = createServer();
  await listen(server, bind, 0o600);
  await new Promise((resolve) => server.close(resolve));
}

function bindError(bind: Bind, error: NodeJS.ErrnoException): StartError {
  const name = "path" in bind ? bind.path : `${bind.host}:${bind.port}`;
  switch (error.code) {
    case "EADDRINUSE":
      return new StartError("address_in_use", `${name} is in use by another process`, error);
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
    case "ENOENT":
    case "ENOTDIR":
      return new StartError("address_invalid", `${name} cannot be bound: no such address on this machine`, error);
    default:
      return new StartError("address_refused", `${name} cannot be bound (${error.code ?? "unknown"})`, error);
  }
}
