import { refusal, type TimeBounds } from "../domain/decide.ts";
import { Cached, type Freshness } from "../domain/freshness.ts";
import { dependencies, type TokenSnapshot } from "../domain/token-snapshot.ts";
import { hasShape, type ParsedTokenString } from "../domain/token-string.ts";
import { withDeadline } from "../domain/with-deadline.ts";
import type { Tier } from "../telemetry/events.ts";
import { Interning } from "./interning.ts";
import { L1Cache } from "./l1-cache.ts";
import type { Reading, TokenCache } from "./ports.ts";
import { Signatures } from "./signatures.ts";
import { SingleFlight, type SingleFlightDeps, type SingleFlightOptions } from "./single-flight.ts";

export interface LookupOptions extends SingleFlightOptions {
  readonly l1Entries: number;
  readonly l1Bytes: number;
  /**
   * The lifetime of an entry in milliseconds, counted from when it is stored; use does not extend it. Must be shorter
   * than the ten minutes that the log is kept.
   */
  readonly l1TtlMs: number;
  /** The lifetime of an entry for a token that is refused for its state, not for its times. */
  readonly l1DeadTtlMs: number;
  /** The most concurrent requests to Redis. Further calls go to the store. */
  readonly maxCacheReads: number;
}

export interface LookupDeps extends SingleFlightDeps {
  readonly freshness: Freshness;
  readonly cache?: TokenCache;
  /** Called when a reading is not trusted, so that the follower polls and sees a new epoch. */
  readonly wake: () => void;
}

/** The result of a look-up. `undetermined`: no proof that any answer would be fresh. */
export type LookupResult =
  | { readonly kind: "found"; readonly snapshot: TokenSnapshot; readonly time: TimeBounds; readonly tier: Tier }
  | { readonly kind: "malformed" }
  | { readonly kind: "unknown"; readonly tier: Tier }
  | { readonly kind: "undetermined" };

/** A reading that has arrived, judged in the tick of its arrival. */
interface Arrival {
  readonly reading: Reading;
  /** The reading is from the primary, of this epoch and not older than `applied` at its send. */
  readonly trusted: boolean;
  readonly cached: Cached | undefined;
}

/** Values that many rows have in common may take `l1Bytes` divided by this. */
const SHARED_PART = 8;
const UNDETERMINED: LookupResult = { kind: "undetermined" };
const MALFORMED: LookupResult = { kind: "malformed" };
const FORGED: LookupResult = { kind: "unknown", tier: "none" };
/** Under these bounds no token is expired or not yet valid, so every refusal is for the token's state. */
const TIMELESS: TimeBounds = { lower: Number.POSITIVE_INFINITY, upper: Number.NEGATIVE_INFINITY };

/**
 * Finds the snapshot behind a token string: L1, then the tag, then Redis, then a read on the primary
 * (`docs/protocol.md` §4.4). A cached or shared row must pass the use rule; a read of this call's own needs not.
 * `answer` runs in the same tick as that proof, so that nothing can change between the proof and the decision.
 */
export class Lookup {
  readonly #deps: LookupDeps;
  readonly #options: LookupOptions;
  readonly #l1: L1Cache;
  readonly #reads: SingleFlight<Arrival>;
  readonly #values: Interning;
  readonly #signatures: Signatures;
  readonly #cacheReads = new Map<string, Promise<TokenSnapshot | undefined>>();

  constructor(deps: LookupDeps, options: LookupOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#signatures = new Signatures(deps);
    this.#values = new Interning(options.l1Bytes / SHARED_PART);
    this.#l1 = new L1Cache({ most: options.l1Entries, mostBytes: options.l1Bytes, sizeOf });
    this.#reads = new SingleFlight(deps, options, (reading, applied) => this.#arrived(reading, applied));
  }

  /**
   * Synchronous for an L1 hit, and for a malformed or forged string whose signature need not wait. `deadline` is a
   * monotonic time. After it, and when the store fails, the result is `undetermined`. `signatures`: a budget of its own.
   */
  find<A>(
    text: string,
    parsed: ParsedTokenString,
    deadline: number,
    answer: (found: LookupResult) => A,
    signatures: Signatures = this.#signatures,
  ): A | Promise<A> {
    const { freshness, clock } = this.#deps;
    if (freshness.halted) return answer(UNDETERMINED);
    const now = clock.mono();
    const known = this.known(parsed.digest, now);
    if (known !== undefined) return answer({ kind: "found", snapshot: known, time: freshness.time(now), tier: "l1" });
    // After L1: the digest of a cached string proves that the string is well-formed, so an L1 hit skips these checks.
    if (!hasShape(text, parsed)) return answer(MALFORMED);
    const then = (ours: boolean | undefined) => {
      if (ours === undefined) return answer(UNDETERMINED);
      return ours ? this.#miss(parsed.digest, deadline, answer) : answer(FORGED);
    };
    const ours = signatures.ours(text, parsed, deadline);
    return ours instanceof Promise ? ours.then(then) : then(ours);
  }

  /** The row in L1, if the use rule admits it in this tick. The caller reads `now` in the same tick. */
  known(digest: string, now: number): TokenSnapshot | undefined {
    const { freshness } = this.#deps;
    if (freshness.halted) return undefined;
    const entry = this.#l1.get(digest, now);
    return entry !== undefined && freshness.usable(entry, now) ? entry.snapshot : undefined;
  }

  /** Clears L1, because another epoch began. */
  forget(): void {
    this.#l1.clear();
  }

  get entries(): number {
    return this.#l1.size;
  }

  async #miss<A>(digest: string, deadline: number, answer: (found: LookupResult) => A): Promise<A> {
    const { freshness, clock } = this.#deps;
    const kept = await this.#outside(digest, deadline);
    const now = clock.mono();
    if (kept !== undefined && freshness.usable(kept, now)) {
      this.#noteRefusal(kept.snapshot);
      this.#keep(kept);
      return answer({ kind: "found", snapshot: kept.snapshot, time: freshness.time(now), tier: "l2" });
    }
    return this.#read(digest, deadline, answer);
  }

  /** The row in Redis, which has not passed the use rule yet. One request per token at a time. */
  async #outside(digest: string, deadline: number): Promise<Cached | undefined> {
    const { cache, clock, freshness } = this.#deps;
    const { epoch } = freshness;
    if (cache === undefined || !cache.ready || epoch === undefined || !freshness.holdsLease(clock.mono()))
      return undefined;
    let request = this.#cacheReads.get(digest);
    if (request === undefined) {
      if (this.#cacheReads.size >= this.#options.maxCacheReads) return undefined;
      request = cache.get(digest, epoch).finally(() => this.#cacheReads.delete(digest));
      this.#cacheReads.set(digest, request);
    }
    const snapshot = await withDeadline(this.#deps, request, deadline);
    return snapshot && new Cached(this.#values.share(snapshot));
  }

  async #read<A>(digest: string, deadline: number, answer: (found: LookupResult) => A): Promise<A> {
    let own = false;
    let strikes = 0;
    for (;;) {
      const flight = this.#reads.request(digest, deadline, own);
      if (flight === undefined) return answer(UNDETERMINED);
      const shared = flight.sent;
      const arrival = await this.#reads.wait(flight, deadline);
      if (arrival === undefined || this.#deps.freshness.halted) return answer(UNDETERMINED);
      if (!arrival.trusted || !this.#ofThisEpoch(arrival.reading)) {
        if (++strikes > 1) return answer(UNDETERMINED);
      } else if (!shared || this.#proven(arrival)) {
        return answer(this.#byReading(arrival));
      }
      own = true;
    }
  }

  /** A read that was sent before this call started is fresh enough only if its row passes the use rule. */
  #proven({ cached }: Arrival): boolean {
    const { freshness, clock } = this.#deps;
    return cached !== undefined && freshness.usable(cached, clock.mono());
  }

  #ofThisEpoch(reading: Reading): boolean {
    return !reading.inRecovery && reading.epoch === this.#deps.freshness.epoch;
  }

  /**
   * PostgreSQL takes a statement's snapshot before it runs the statement. If the server is promoted in between, the
   * reading shows the new epoch with rows from its time as a standby. So a reading counts only if it was sent after this
   * process saw the epoch, and if its position is at least the one that was applied here when it was sent.
   */
  #trusted(reading: Reading, applied: number): boolean {
    const { freshness } = this.#deps;
    if (!this.#ofThisEpoch(reading)) return false;
    return reading.sent >= freshness.sawEpoch && reading.position >= applied;
  }

  /** Judges and caches a reading. Called once per reading, in the tick of its arrival. */
  #arrived(reading: Reading, applied: number): Arrival {
    const { freshness, reader, wake, cache, clock } = this.#deps;
    const { snapshot } = reading;
    const cached = snapshot && new Cached(this.#values.share(snapshot));
    const trusted = this.#trusted(reading, applied);
    if (!trusted) {
      reader.reconnect();
      wake();
    } else if (cached !== undefined) {
      this.#noteRefusal(cached.snapshot);
      if (freshness.usable(cached, clock.mono())) {
        this.#keep(cached);
        cache?.fill(cached.snapshot);
      }
    }
    return { reading, trusted, cached };
  }

  /** Stores a row in L1. A row that is refused for its state gets the short lifetime. */
  #keep(entry: Cached): void {
    const { snapshot } = entry;
    const { l1TtlMs, l1DeadTtlMs } = this.#options;
    const ttl = refusal(snapshot, TIMELESS) === undefined ? l1TtlMs : l1DeadTtlMs;
    this.#l1.set(entry, this.#deps.clock.mono() + ttl);
  }

  /** After a refusal for a token's state, no older row is admitted here, even before a poll has seen the change. */
  #noteRefusal(snapshot: TokenSnapshot): void {
    if (refusal(snapshot, TIMELESS) === undefined) return;
    this.#deps.freshness.refused(dependencies(snapshot)[0]!, snapshot.version);
  }

  #byReading({ reading, cached }: Arrival): LookupResult {
    if (cached === undefined) return { kind: "unknown", tier: "store" };
    const { freshness } = this.#deps;
    const now = this.#deps.clock.mono();
    const time = { lower: reading.dbTime + (now - reading.received), upper: reading.dbTime + (now - reading.sent) };
    // This epoch may lack a change that took the token away. None is known to give one back.
    const allowing = reading.proven && freshness.accounted;
    if (!allowing && refusal(cached.snapshot, time) === undefined) return UNDETERMINED;
    return { kind: "found", snapshot: cached.snapshot, time, tier: "store" };
  }
}

/** The fixed part of an entry's size covers this many characters of scopes, in the entry and its encoded answers. */
const FEW_SCOPES = 256;
/** The number of further copies of the scopes: in the encoded answer of each protocol, and in its frames. */
const ANSWERS = 4;

/** The approximate size of an entry on the heap, in bytes. `test/validation/lookup.test.ts` measures the fixed part. */
function sizeOf(m: TokenSnapshot): number {
  let bytes = 540;
  for (const list of [m.scopes, m.roles, m.audiences, m.allowedCidrs])
    for (const item of list) bytes += 24 + item.length;
  // An encoded answer repeats the scopes and the tenants.
  let repeated = -FEW_SCOPES;
  for (const { tenant } of m.attachments) {
    bytes += 96 + tenant.length;
    repeated += tenant.length;
  }
  for (const scope of m.scopes) repeated += scope.length;
  if (repeated > 0) bytes += ANSWERS * repeated;
  for (const [key, value] of Object.entries(m.annotations)) bytes += 48 + 2 * (key.length + value.length);
  if (m.parent === undefined) return bytes;
  for (const list of [m.parent.audiences, m.parent.allowedCidrs]) for (const item of list) bytes += 24 + item.length;
  return bytes + 160;
}
