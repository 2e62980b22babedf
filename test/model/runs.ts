// The list of checks: the correct models, the useful states that they must reach, the mutants that must fail.

export type Model = "revocation.pml" | "registry.pml" | "feed.pml";

/** One run of the verifier. `defines` configure the model; `expect` is the outcome that makes the run a pass. */
export interface Run {
  readonly name: string;
  readonly model: Model;
  readonly defines: readonly string[];
  /**
   * `holds`: exhausted without an error. `violated`: this assertion fails. `reached`: an assertion fails that is no
   * promise.
   */
  readonly expect: "holds" | "reached" | { readonly violated: string };
  readonly why: string;
  /** Every control point of the model must be visited: no branch of it is idle. */
  readonly covers?: boolean;
}

/** The promise: no ALLOW by a call that started after a revoke returned OK, in the words of each model. */
export const AFTER_OK = {
  "revocation.pml": "!(startedAfterOk)",
  "registry.pml": "!(revokeReturnedOk)",
  "feed.pml": "!(revokeReturnedOk)",
} as const;
/** In one process, no ALLOW by a call that started after a refusal ended. */
export const AFTER_REFUSAL = "!(startedAfterRefusal)";

const SMALL = ["REVOKERS=1", "CHANGES=0"];

function holds(name: string, model: Model, defines: readonly string[], why: string, covers?: boolean): Run {
  return { name, model, defines, expect: "holds", why, covers };
}

function base(name: string, why: string, bounds: readonly string[] = SMALL): Run {
  // Some of these break the promise within a process sooner; ONLY_A asks for the promise between processes.
  const defines = [name, "ONLY_A", ...bounds];
  return { name, model: "revocation.pml", defines, expect: { violated: AFTER_OK["revocation.pml"] }, why };
}

function registry(name: string, why: string): Run {
  return { name, model: "registry.pml", defines: [name], expect: { violated: AFTER_OK["registry.pml"] }, why };
}

function feed(name: string, why: string, bounds: readonly string[] = []): Run {
  return { name, model: "feed.pml", defines: [name, ...bounds], expect: { violated: AFTER_OK["feed.pml"] }, why };
}

function reached(model: Model, witness: string, why: string, bounds: readonly string[] = []): Run {
  const defines = [`WITNESS_${witness}`, ...(model === "revocation.pml" ? SMALL : bounds)];
  return { name: witness, model, defines, expect: "reached", why };
}

export const MUTANTS: readonly Run[] = [
  base("M1", "no lease check"),
  base("M2", "lease counted from the receipt"),
  base("M3", "no wait"),
  base("M4", "fast retry"),
  base("M5", "no deny check on L2"),
  base("M6", "none on fill"),
  base("M7", "a replica's answer believed"),
  base("M8", "lease cleared by a timer"),
  base("M9", "clock at half rate, no margin"),
  base("M10", "acknowledged before applied"),
  registry("M11", "lease before registration"),
  registry("M12", "acks believed before settled"),
  registry("M13", "a reaped row ignored at once"),
  registry("M15", "entry of an older epoch used"),
  base("M18", "prune without floor"),
  base("M31", "L2 filled by the writer", ["REVOKERS=1", "CHANGES=1"]),
  base("M35", "floor lowered"),
  {
    name: "R33",
    model: "revocation.pml",
    defines: ["R33", ...SMALL],
    expect: { violated: AFTER_REFUSAL },
    why: "own refusal not entered in the deny map",
  },
  registry("R35", "a corpse forgotten early"),
  { ...base("EARLY", "the wait a tick short"), defines: ["EARLY=1", ...SMALL] },
  { ...registry("EARLY", "every wait a tick short"), defines: ["EARLY=1"] },
  feed("M36", "a client's lease counted from the receipt"),
  feed("M37", "the age of the server's poll omitted"),
  feed("M38", "acknowledged without the members"),
  feed("M39", "the answer counted as the acknowledgement"),
  feed("M40", "a client acknowledges before it applies"),
  feed("M41", "a client uses an entry of another epoch", ["EPOCHS=2", "BEFORE=1"]),
  feed("M42", "a member forgotten when its connection breaks"),
  feed("M43", "the old row deleted at re-registration", ["REAPING=1"]),
  feed("M44", "the row deleted at stop", ["STOPS=1"]),
  { ...feed("EARLY", "every wait a tick short"), defines: ["EARLY=1"] },
];

export const WITNESSES: readonly Run[] = [
  reached("revocation.pml", "ALLOW_L1", "between commit and OK, L1 still answers"),
  reached("revocation.pml", "ALLOW_L2", "between commit and OK, L2 still answers"),
  reached("revocation.pml", "REFUSE", "refused by an own read, before the poll has seen it"),
  reached("revocation.pml", "OK_ACKED", "OK by acks, the validator still leased"),
  reached("revocation.pml", "OK_LEASE_EXPIRED", "OK by time, the validator missing"),
  reached("registry.pml", "ALLOW_AFTER_FAILOVER", "a cache works again in the next epoch"),
  reached("registry.pml", "ALLOW_STALE", "a process reaped by mistake still has its lease"),
  reached("registry.pml", "OK_ACKED", "OK by acks, the validator still leased"),
  reached("registry.pml", "OK_ACKED_AFTER_FAILOVER", "OK by acks, once the new epoch is settled"),
  reached("registry.pml", "OK_LONG_REAPED", "OK without waiting for a long reaped row"),
  reached("registry.pml", "OK_BURIED", "OK by acks after a burial"),
  reached("registry.pml", "OK_SHORT_BOUND", "OK by time, by the bound of the missing alone"),
  reached("registry.pml", "OK_UNSETTLED", "OK by time in an epoch that is not settled"),
  reached("feed.pml", "OK_ACKED", "OK by acks, the client still leased"),
  reached("feed.pml", "OK_LEASE_EXPIRED", "OK by time, a member missing"),
  reached("feed.pml", "ALLOW_STALE", "between commit and OK, a client's cache still answers"),
  reached("feed.pml", "ALLOW_AFTER_FAILOVER", "a client's cache works again in the next epoch", ["EPOCHS=2"]),
  reached("feed.pml", "OK_LONG_REAPED", "OK without waiting for a row that the server left behind", ["REAPING=1"]),
];

const SURVIVOR = "the lease checked before the I/O is harmless, so the model must not cry wolf (R12)";

/** Bounds that exhaust in seconds. */
export const SMALL_MODELS: readonly Run[] = [
  holds("changes", "revocation.pml", ["REVOKERS=1", "CHANGES=1"], "one revoke among other changes", true),
  holds("retry", "revocation.pml", ["REVOKERS=2", "CHANGES=0"], "a revoke and its concurrent retry"),
  holds("calls", "revocation.pml", ["REVOKERS=1", "CHANGES=0", "CALLS=2"], "two concurrent calls in one process"),
  holds("margin", "revocation.pml", ["REVOKERS=1", "CHANGES=0", "L=5", "K=5"], "the real 20 % margin"),
  holds("registry", "registry.pml", ["EPOCHS=2", "CHANGES=1"], "join, reap, bury, failover", true),
  holds("survives-R12", "revocation.pml", ["SURVIVES_R12", ...SMALL], SURVIVOR),
  holds("feed", "feed.pml", ["CHANGES=1", "RESTARTS=1"], "a client's cache behind a server, other changes, restarts"),
  holds("feed-epochs", "feed.pml", ["EPOCHS=2"], "the feed over a failover"),
  holds("feed-reaping", "feed.pml", ["REAPING=1"], "the server's row reaped by mistake, registered again, buried"),
  holds("feed-stops", "feed.pml", ["STOPS=1"], "the server stops while clients hold leases"),
  holds("feed-crashes", "feed.pml", ["CRASHES=1"], "the server crashes while clients hold leases"),
];

/**
 * Bounds for a machine with hours and memory. Each run ends at its limit, and then reports that it is not exhaustive.
 */
export const LARGE_MODELS: readonly Run[] = [
  holds("full-base", "revocation.pml", ["REVOKERS=2", "CHANGES=1"], "retry and other changes together"),
  holds("full-calls", "revocation.pml", ["REVOKERS=1", "CHANGES=1", "CALLS=2"], "two calls and other changes"),
  holds("full-margin", "revocation.pml", ["REVOKERS=1", "CHANGES=1", "L=5", "K=5"], "20 % margin and other changes"),
  holds("full-two", "revocation.pml", ["REVOKERS=1", "CHANGES=0", "N=2"], "two validators"),
  holds("full-registry-lease", "registry.pml", ["EPOCHS=2", "CHANGES=1", "L=3", "K=3"], "a longer lease, three bounds"),
  holds("full-registry-margin", "registry.pml", ["EPOCHS=2", "CHANGES=1", "L=5", "K=5"], "the real 20 % margin"),
  holds("full-registry-epochs", "registry.pml", ["EPOCHS=3", "CHANGES=1"], "two failovers"),
  holds("full-registry-two", "registry.pml", ["EPOCHS=2", "CHANGES=0", "N=2"], "two validators"),
  holds("full-feed-epochs", "feed.pml", ["EPOCHS=2", "CHANGES=1", "RESTARTS=1"], "failover and other changes"),
  holds("full-feed-rows", "feed.pml", ["REAPING=1", "CRASHES=1", "STOPS=1"], "reaping, crash and stop together"),
  holds("full-feed-margin", "feed.pml", ["L=5", "K=5", "CHANGES=1"], "the real 20 % margin"),
  holds("full-survives-R12", "revocation.pml", ["SURVIVES_R12", "REVOKERS=1", "CHANGES=1"], SURVIVOR),
];
