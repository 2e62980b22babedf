import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { pin, SERVER_CORE } from "./machine.ts";

/** A running server under measurement. */
export interface Subject {
  readonly name: string;
  readonly pid: number;
  /** The process in front of it, if requests go through one. */
  readonly proxy?: number;
  /** host:port or unix:/path. */
  readonly address: string;
  /** Sallyport only: the number of answers about tokens so far, by tier. */
  readonly tiers?: () => Promise<Readonly<Record<string, number>>>;
  /** Resolves to the exit code, if it is known. */
  stop(): Promise<unknown>;
}

/** A subject, or the reason why there is none. */
export type Maybe = { readonly name: string } & (Subject | { readonly missing: string });

/** Starts a peer on the servers' core. It prints "listening ADDRESS" when it is ready. */
export async function startPeer(
  name: string,
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Subject> {
  const { PATH = "", HOME = "" } = process.env;
  const child = spawn(command, args, {
    env: { PATH, HOME, PEER_BIND: "127.0.0.1:0", ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const address = await said(child, /^listening (.+)$/m, name);
  pin(child.pid!, SERVER_CORE);
  return {
    name,
    pid: child.pid!,
    address: address.startsWith("/") ? `unix:${address}` : address,
    stop: () => ended(child),
  };
}

function said(child: ChildProcess, pattern: RegExp, name: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`${name} ended with ${code} before it listened`)));
    child.stdout!.on("data", (chunk: Buffer) => {
      const found = pattern.exec((text += chunk.toString()));
      if (found !== null) resolve(found[1]!);
    });
  });
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), 5_000);
  await exit;
  clearTimeout(timer);
}
