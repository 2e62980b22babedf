import type { Limits } from "../http2/server/limits.ts";
import type { HeadLimits } from "../http2/unary/head.ts";

/**
 * The limits of one listener, for each of its servers. Times in milliseconds, sizes in bytes. A client that exceeds a
 * limit loses its own stream or connection.
 */
export interface ListenerLimits {
  readonly maxSockets: number;
  /** Not for loopback and unix sockets. */
  readonly maxSocketsPerAddress: number;
  /**
   * The time from accept to the first bytes, for the TLS handshake, and from the HTTP/2 preface to the first request.
   */
  readonly firstRequestMs: number;
  readonly h1: {
    readonly maxHeaderBytes: number;
    readonly maxHeaders: number;
    readonly headersMs: number;
    readonly requestMs: number;
    readonly keepAliveMs: number;
  };
  readonly h2: {
    readonly maxConcurrentStreams: number;
    readonly maxHeaderBytes: number;
    /** Pseudo-headers count. */
    readonly maxHeaders: number;
    /** RST_STREAM tokens per session (CVE-2023-44487) and their refill per second. */
    readonly resetBurst: number;
    readonly resetsPerSecond: number;
    readonly maxRejectedStreams: number;
    /** PING and SETTINGS frames in ten seconds. */
    readonly maxControlFrames: number;
    /** Time without an open stream until GOAWAY. 0: no limit, for trusted peers. */
    readonly idleMs: number;
    /** Connection age (± 10 %), then GOAWAY. 0 for no limit. */
    readonly ageMs: number;
    /** The interval of PINGs. A peer that does not answer within `pingTimeoutMs` is cut. 0: none. */
    readonly pingMs: number;
    readonly pingTimeoutMs: number;
  };
  /** Time that an answer waits for its client to read on, until its stream or connection ends. */
  readonly stalledMs: number;
  /** The bytes that all peers of the listener can make it hold together: headers, bodies and unread answers. */
  readonly bufferedBytes: number;
  /** Server streams (health Watch, reflection) of one connection. */
  readonly streamsPerConnection: number;
}

const KiB = 1024;
const MiB = 1024 * KiB;

const h1 = { maxHeaderBytes: 16 * KiB, maxHeaders: 128, headersMs: 5_000, requestMs: 10_000, keepAliveMs: 75_000 };
const PING_MS = 30_000;
const untrusted = { idleMs: 60_000, ageMs: 300_000, pingMs: 0, pingTimeoutMs: 10_000 };
const trusted = { idleMs: 0, ageMs: 0, pingMs: PING_MS, pingTimeoutMs: 10_000 };
const h2 = {
  ...untrusted,
  maxConcurrentStreams: 64,
  maxHeaderBytes: 16 * KiB,
  maxHeaders: 128,
  resetBurst: 200,
  resetsPerSecond: 50,
  maxRejectedStreams: 20,
  maxControlFrames: 1_000,
};
const common = { firstRequestMs: 5_000, stalledMs: 10_000, streamsPerConnection: 8 };

/**
 * The limits of each listener. On a data listener with trusted peers, sessions have no age and no idle limit, because a
 * closed session is an error that `failure_mode_allow` opens. A proxy's clients can reset streams through it.
 */
export function listenerLimits(listener: "data" | "data-trusted" | "admin" | "ops"): ListenerLimits {
  switch (listener) {
    case "data":
    case "data-trusted":
      return {
        ...common,
        maxSockets: 1_024,
        maxSocketsPerAddress: 128,
        h1: { ...h1, maxHeaderBytes: 64 * KiB, maxHeaders: 256 },
        h2: {
          ...h2,
          ...(listener === "data" ? { ...untrusted, pingMs: PING_MS } : trusted),
          maxConcurrentStreams: 256,
          resetBurst: 10_000,
          resetsPerSecond: 2_000,
          maxRejectedStreams: 100,
        },
        bufferedBytes: 32 * MiB,
      };
    case "admin":
      return { ...common, maxSockets: 256, maxSocketsPerAddress: 32, h1, h2, bufferedBytes: 16 * MiB };
    case "ops":
      return {
        ...common,
        maxSockets: 64,
        maxSocketsPerAddress: 16,
        h1: { ...h1, keepAliveMs: 15_000 },
        h2,
        bufferedBytes: 4 * MiB,
      };
  }
}

/**
 * A listener's limits in the form of the built-in HTTP/2 server, which exempts trusted peers from age and idleness
 * itself.
 */
export function builtinLimits({ firstRequestMs, h2, stalledMs, bufferedBytes }: ListenerLimits): Partial<Limits> {
  return {
    maxConcurrentStreams: h2.maxConcurrentStreams,
    ...h2HeadLimits({ h2 }),
    maxBuffered: bufferedBytes,
    budget: h2.maxControlFrames,
    budgetPerSecond: h2.maxControlFrames / 10,
    prefaceMs: firstRequestMs,
    idleMs: h2.idleMs || Number.POSITIVE_INFINITY,
    ageMs: h2.ageMs || Number.POSITIVE_INFINITY,
    keepaliveMs: h2.pingMs || Number.POSITIVE_INFINITY,
    keepaliveTimeoutMs: h2.pingTimeoutMs,
    undrainedMs: stalledMs,
  };
}

/** The limits of a request's head over HTTP/2. */
export function h2HeadLimits({ h2 }: Pick<ListenerLimits, "h2">): HeadLimits {
  return { maxHeaderList: h2.maxHeaderBytes, maxHeaderPairs: h2.maxHeaders };
}

/** The limits of a request's head over HTTP/1.1, counted like HTTP/2: 32 bytes for each field, and pseudo-headers. */
export function h1HeadLimits({ h1 }: Pick<ListenerLimits, "h1">): HeadLimits {
  const pairs = h1.maxHeaders + 4;
  return { maxHeaderList: h1.maxHeaderBytes + 32 * pairs, maxHeaderPairs: pairs };
}

export const RESPONSE_MAX_BYTES = 4 * MiB;
