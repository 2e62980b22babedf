import { setTimeout as delay } from "node:timers/promises";
import { startTcpProxy } from "../support/tcp-proxy.ts";
import { until } from "./bounded.ts";
import type { Member } from "./patroni-member.ts";

const EVERY_MS = 100;
const ANSWER_MS = 1_000;

/** A proxy that leads to the primary, like HAProxy with a check of `/primary` and `on-marked-down shutdown-sessions`. */
export interface PrimaryProxy {
  readonly port: number;
  /** From now on to nobody: connections are reset. */
  hold(): Promise<void>;
  /** From now on to the primary again. */
  follow(): void;
  /** To this server, whatever the members say. Only after `hold`. */
  leadTo(port: number): Promise<void>;
  stop(): Promise<void>;
}

/** Resolves once it leads to the primary. */
export async function startPrimaryProxy(members: readonly Member[]): Promise<PrimaryProxy> {
  const proxy = await startTcpProxy({ port: members[0]!.sql });
  await proxy.set({ kind: "reset" });
  const up = new Set<Member>();
  let current: Member | undefined;
  let follows = true;
  let running = true;

  /** Leaves the present one only when it says that it is no primary, or nothing. */
  const choose = async () => {
    if (!follows || (current !== undefined && up.has(current))) return;
    if (current !== undefined) await proxy.set({ kind: "reset" });
    [current] = up;
    if (current === undefined) return;
    proxy.leadTo({ port: current.sql });
    await proxy.set({ kind: "pass" });
  };
  const check = async (member: Member) => {
    for (; running; await delay(EVERY_MS)) {
      const answer = fetch(member.url("primary"), { signal: AbortSignal.timeout(ANSWER_MS) });
      const status = await answer.then(
        (reply) => reply.arrayBuffer().then(() => reply.status),
        () => 0,
      );
      if (status === 200) up.add(member);
      else up.delete(member);
      await choose();
    }
  };
  const checks = members.map(check);

  if (!(await until(() => current !== undefined))) throw new Error("no member says that it is the primary");

  return {
    port: proxy.port,
    hold: async () => {
      follows = false;
      current = undefined;
      await proxy.set({ kind: "reset" });
    },
    leadTo: async (port) => {
      proxy.leadTo({ port });
      await proxy.set({ kind: "pass" });
    },
    follow: () => {
      follows = true;
    },
    stop: async () => {
      running = false;
      await Promise.all(checks);
      await proxy.stop();
    },
  };
}
