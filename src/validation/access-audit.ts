import type { AccessUse } from "../domain/access-event.ts";
import type { Clock, Timers } from "../domain/clock.ts";
import type { RefusalReason, RequestTarget, Verdict } from "../domain/decide.ts";
import { isAddress } from "../domain/networks.ts";
import type { Profile } from "../domain/profile.ts";
import { recordedPath, recordedText } from "../domain/recorded-text.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";
import type { Events } from "../telemetry/events.ts";
import type { AccessLogStore } from "./ports.ts";
import type { Recorded } from "./validate.ts";

export interface AccessAuditDeps {
  readonly store: AccessLogStore;
  readonly profiles: ReadonlyMap<string, Pick<Profile, "accessAudit" | "accessAuditSample">>;
  readonly clock: Pick<Clock, "mono">;
  readonly timers: Timers;
  readonly events: Pick<Events, "accessDropped" | "trouble">;
  readonly random: () => number;
  /** Runs a function after the work that waits, as `setImmediate` does. */
  readonly later: (run: () => void) => void;
  /** The database's time, as this process knows it: milliseconds since 1970. */
  readonly now: () => number;
}

const MOST = 16_384;
const FLUSH_MS = 1_000;
const ROWS_AT_ONCE = 1_000;
/** Longer texts are cut in memory already. Characters. */
const LONGEST = 2_048;
const NOTHING: RequestTarget = { method: "", host: "", path: "", workload: "" };

interface Use {
  readonly at: number;
  readonly snapshot: TokenSnapshot;
  readonly verdict: Verdict;
  readonly reason: RefusalReason | undefined;
  readonly scopes: readonly string[];
  readonly audience: string;
  readonly address: string;
  readonly target: RequestTarget;
  readonly listener: string;
}

/**
 * The record of uses: kept in memory, merged and stored each second. A validation never waits for it. Uses that do not fit,
 * and those that the database does not take, are dropped and counted.
 */
export class AccessAudit {
  readonly #deps: AccessAuditDeps;
  /** The recorded part of the uses, by profile. */
  readonly #parts: ReadonlyMap<string, number>;
  #uses: Use[] = [];
  #cancel: (() => void) | undefined;
  #flushing: Promise<void> | undefined;

  constructor(deps: AccessAuditDeps) {
    this.#deps = deps;
    const parts = new Map<string, number>();
    for (const [name, { accessAudit, accessAuditSample }] of deps.profiles) {
      if (accessAudit !== "off") parts.set(name, accessAudit === "full" ? 1 : accessAuditSample);
    }
    this.#parts = parts;
  }

  /** The function that a listener calls for each use; undefined if no profile records any. */
  recorder(listener: string): Recorded | undefined {
    if (this.#parts.size === 0) return undefined;
    return (snapshot, verdict, reason, { scopes, audience }, { clientAddress, target = NOTHING }, at) => {
      const part = this.#parts.get(snapshot.profile);
      if (part === undefined || (part < 1 && this.#deps.random() >= part)) return;
      if (this.#uses.length >= MOST) return this.#deps.events.accessDropped("full", 1);
      this.#uses.push({
        at,
        snapshot,
        verdict,
        reason,
        scopes,
        audience,
        address: clientAddress.length <= 64 ? clientAddress : "",
        target: target === NOTHING ? NOTHING : (target.copy?.() ?? bounded(target)),
        listener,
      });
    };
  }

  start(): void {
    if (this.#parts.size === 0) return;
    this.#cancel = this.#deps.timers.after(FLUSH_MS, () => {
      void this.flush().then(() => {
        if (this.#cancel !== undefined) this.start();
      });
    });
  }

  flush(): Promise<void> {
    this.#flushing ??= this.#store().finally(() => {
      this.#flushing = undefined;
    });
    return this.#flushing;
  }

  async stop(): Promise<void> {
    this.#cancel?.();
    this.#cancel = undefined;
    await this.#flushing;
    await this.flush();
  }

  async #store(): Promise<void> {
    const { store, clock, now, events, later } = this.#deps;
    const uses = this.#uses;
    this.#uses = [];
    let left = uses.length;
    try {
      const rows = await merged(uses, now() - clock.mono(), later);
      for (let i = 0; i < rows.length; i += ROWS_AT_ONCE) {
        const some = rows.slice(i, i + ROWS_AT_ONCE);
        await store.append(some);
        for (const row of some) left -= row.uses;
      }
    } catch (error) {
      events.accessDropped("database", left);
      events.trouble("access_audit_failed", error);
    }
  }
}

function bounded({ method, host, path, workload }: RequestTarget): RequestTarget {
  return { method: cut(method), host: cut(host), path: cut(path), workload: cut(workload) };
}

/** Copied, because a part of a long string keeps the whole of it in memory. One character more shows that it was cut. */
function cut(text: string): string {
  return text.length <= LONGEST ? text : Buffer.from(text.slice(0, LONGEST + 1)).toString();
}

/** One row for uses that are alike. Lets other work through, because there can be thousands. */
async function merged(uses: readonly Use[], offset: number, later: AccessAuditDeps["later"]): Promise<AccessUse[]> {
  const rows = new Map<string, { -readonly [K in keyof AccessUse]: AccessUse[K] }>();
  for (const [i, use] of uses.entries()) {
    if (i % 500 === 499) await new Promise<void>(later);
    const { snapshot, verdict, reason = "", listener } = use;
    const { method, host, path: target, workload } = use.target;
    const path = target.split(/[?#]/, 1)[0]!;
    const address = isAddress(use.address) ? use.address : "";
    const of = [snapshot.id, verdict, reason, use.scopes.join(" "), use.audience, method, host, path];
    const key = [...of, workload, address, listener].join("\0");
    const known = rows.get(key);
    if (known !== undefined) {
      known.uses++;
      known.time = use.at + offset;
      continue;
    }
    rows.set(key, {
      time: use.at + offset,
      tenant: snapshot.tenant,
      principal: snapshot.principal,
      tokenId: snapshot.id,
      hint: snapshot.hint,
      profile: snapshot.profile,
      verdict,
      reason,
      scopes: use.scopes.map((scope) => recordedText(scope, 128)),
      audience: recordedText(use.audience, 256),
      method: recordedText(method, 32),
      host: recordedText(host, 256),
      path: recordedPath(path, path.length > LONGEST),
      workload: recordedText(workload, 256),
      address,
      listener,
      uses: 1,
    });
  }
  return [...rows.values()];
}
