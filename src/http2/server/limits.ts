/**
 * The limits of one peer. Sizes in octets, times in milliseconds. A listener sets those that it has in common with its
 * other servers; the defaults are for the rest, and for a server that stands alone.
 */
export interface Limits {
  readonly maxConcurrentStreams: number;
  /** Handlers at work for one connection, cancelled calls included; more calls are answered "overloaded". */
  readonly maxRunning: number;
  /** Of the decoded list as RFC 9113 §6.5.2 counts it, and of the block on the wire. More fails that stream alone. */
  readonly maxHeaderList: number;
  readonly maxHeaderPairs: number;
  /** CONTINUATION frames of one block; more ends the connection, since the block can no longer be followed. */
  readonly maxContinuations: number;
  /** Octets by which header lists may exceed what their blocks' size explains, at once and refilled per second. */
  readonly maxAmplification: number;
  /** Bodies in assembly over all connections; more is answered "overloaded". */
  readonly maxBuffered: number;
  /** Answers waiting in one socket; above it nothing more is read or sent until the socket drains. */
  readonly maxQueued: number;
  /** Frames that ask for work without being a request, at once. */
  readonly budget: number;
  readonly budgetPerSecond: number;
  /** From accept to the peer's first SETTINGS. */
  readonly prefaceMs: number;
  /** Without a request until an untrusted peer's connection is drained. */
  readonly idleMs: number;
  /** Age, ± 10 %, at which an untrusted peer's connection is drained. */
  readonly ageMs: number;
  /** Silence before a PING is sent, and how long its answer may take. */
  readonly keepaliveMs: number;
  readonly keepaliveTimeoutMs: number;
  /** How long an answer may wait for the peer to read it. */
  readonly undrainedMs: number;
  /** How long the second GOAWAY waits for the round trip after the first. */
  readonly roundTripMs: number;
  /** And how long after it: clients let the PING's answer overtake requests they have queued. */
  readonly settleMs: number;
  /** From our end of a connection to its destruction. */
  readonly lingerMs: number;
  /** The interval at which the times above are checked. */
  readonly sweepMs: number;
}

export const DEFAULT_LIMITS: Limits = {
  maxConcurrentStreams: 256,
  maxRunning: 1_024,
  maxHeaderList: 16_384,
  maxHeaderPairs: 128,
  maxContinuations: 8,
  maxAmplification: 4 << 20,
  maxBuffered: 32 << 20,
  maxQueued: 1 << 20,
  budget: 1_000,
  budgetPerSecond: 100,
  prefaceMs: 5_000,
  idleMs: 60_000,
  ageMs: 300_000,
  keepaliveMs: 30_000,
  keepaliveTimeoutMs: 10_000,
  undrainedMs: 10_000,
  roundTripMs: 1_000,
  settleMs: 100,
  lingerMs: 1_000,
  sweepMs: 1_000,
};

/** An allowance that refills with time up to its capacity. */
export class Budget {
  private readonly capacity: number;
  private readonly perMs: number;
  private left: number;
  private at: number;

  constructor(capacity: number, perSecond: number, now: number) {
    this.at = now;
    this.capacity = capacity;
    this.perMs = perSecond / 1000;
    this.left = capacity;
  }

  /** Takes the amount at the time `now`, in milliseconds; false once there is not enough. */
  spend(amount: number, now: number): boolean {
    this.left -= amount;
    if (this.left >= 0) return true;
    this.left = Math.min(this.capacity, this.left + (now - this.at) * this.perMs);
    this.at = now;
    return this.left >= 0;
  }

  earn(amount: number): void {
    if (this.left < this.capacity) this.left += amount;
  }
}

/**
 * Bytes that all peers of a listener make it hold together: headers and bodies of requests that are not answered, and
 * answers that are not read. A request that would exceed the budget is shed, not queued.
 */
export class ByteBudget {
  private taken = 0;
  private readonly most: number;
  private readonly mostWaiting: number;

  constructor(most: number) {
    this.most = most;
    this.mostWaiting = most - (most >> 2);
  }

  get held(): number {
    return this.taken;
  }

  /** False, and nothing taken, when the budget does not hold them. */
  take(bytes: number): boolean {
    if (this.taken + bytes > this.most) return false;
    this.taken += bytes;
    return true;
  }

  /** As `take`, for an incomplete request: it leaves a quarter of the budget to complete ones. */
  takeWaiting(bytes: number): boolean {
    return this.taken + bytes <= this.mostWaiting && this.take(bytes);
  }

  give(bytes: number): void {
    this.taken -= bytes;
  }
}

/**
 * The most that one HTTP/1.1 connection may hold of the part that is kept for complete requests. Its small requests come
 * in pieces too, and there are no more of them than connections.
 */
export const SMALL = 4_096;

/** About what a request takes of the heap, by the octets of its header list: strings, and an object for each field. */
export function weightOfHead(listSize: number): number {
  return 1_024 + 2 * listSize;
}
