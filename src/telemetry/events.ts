import type { RefusalReason, Verdict } from "../domain/decide.ts";

export type Tier = "l1" | "l2" | "store" | "none";

/** One method per thing that happens, each with its counter and its log line. No secret is ever an argument. */
export interface Events {
  validated(verdict: Verdict, reason: RefusalReason | undefined, tier: Tier, seconds: number, tokenId?: string): void;
  /** A string was used after its rotation ended it. */
  tokenReused(tokenId: string): void;
  authorityChanged(mode: "ACKED" | "LEASE_EXPIRED" | "ACCEPTED", waitedSeconds: number): void;
  audited(action: string): void;
  lease(ageSeconds: number): void;
  validators(counts: Readonly<Record<"live" | "reaped", number>>): void;
  cacheEntries(tier: "l1" | "l2", entries: number): void;
  shed(klass: string): void;
  /** A flight of the canary: instances that refused a revoked token, that accepted it, and that told nothing. */
  canary(flight: { readonly refused: number; readonly accepted: number; readonly notReached: number }): void;
  /** Something is wrong with a part of the world; repeated lines are thinned out. `error`: class and code only. */
  trouble(what: string, error: unknown): void;
  /** Something that must wake a person. */
  alarm(what: string, facts: Readonly<Record<string, string | number>>): void;
  /** Something worth a line. */
  note(what: string, facts?: Readonly<Record<string, string | number>>): void;
}

/** A line about one call: names, codes and times; nothing of request or response. */
export interface CallLine {
  readonly requestId: string;
  readonly method: string;
  readonly code: string;
  readonly reason?: string;
  readonly actor?: string;
  /** Of a caller without a good credential: from where it came. */
  readonly address?: string;
  readonly seconds: number;
  readonly level: "debug" | "info" | "warn" | "error";
  /** What an unexpected error was. */
  readonly cause?: unknown;
}
