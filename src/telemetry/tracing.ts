/*
 * Traces, for an operator who has a collector. This file has no package behind it: `otlp.ts` is imported only if an
 * endpoint is set, and without it nothing of a call changes.
 */

/** Every attribute that a span may have: fixed words, ids and numbers. Never a string, hint, principal or address. */
export const ATTRIBUTES = {
  rpc: "rpc.method",
  verdict: "sallyport.verdict",
  tier: "sallyport.tier",
  reason: "sallyport.reason",
  tokenId: "sallyport.token_id",
  mode: "sallyport.mode",
  waitedMs: "sallyport.waited_ms",
  position: "sallyport.position",
} as const;

export type SpanFacts = { readonly [Name in keyof typeof ATTRIBUTES]?: string | number | undefined };

export type ChildName = "authenticate" | "transaction" | "ack_wait" | "redis.get" | "postgres.lookup";

export interface Span {
  set(facts: SpanFacts): void;
  /** `failed`: marks it as an error. */
  end(failed?: boolean): void;
}

export interface Tracing {
  /** The span of a call of the admin listener. Undefined if its `traceparent` says that it is not sampled. */
  call(rpc: string, traceparent: string | null): Span | undefined;
  /** The span of a call whose `traceparent` says that it is sampled. Undefined for any other. */
  sampled(rpc: string, traceparent: string): Span | undefined;
  /** Runs `work` with `span` as the current one. */
  within<T>(span: Span, work: () => T): T;
  /** Runs `work` as a child of the current span, if there is one. */
  child<T>(name: ChildName, work: () => Promise<T>): Promise<T>;
  /** A child of the current span that began `agoMs` ago. */
  begin(name: ChildName, agoMs: number): Span | undefined;
  /** Adds facts to the current span. */
  note(facts: SpanFacts): void;
  /** Sends what waits, for at most 2 s. Never rejects. */
  close(): Promise<void>;
}

/** A `traceparent` of W3C Trace Context, of any version but ff. Undefined for a malformed one. */
export function parentOf(text: string): { traceId: string; spanId: string; sampled: boolean } | undefined {
  if (text.length > 512) return undefined;
  const [, version, traceId, spanId, flags, rest] =
    /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(text) ?? [];
  if (version === undefined || version === "ff" || (version === "00" && rest !== undefined)) return undefined;
  if (/^0+$/.test(traceId!) || /^0+$/.test(spanId!)) return undefined;
  return { traceId: traceId!, spanId: spanId!, sampled: (Number.parseInt(flags!, 16) & 1) === 1 };
}
