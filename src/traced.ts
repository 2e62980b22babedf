import type { AuthorityStore } from "./revocation/authority-store.ts";
import type { Authority } from "./revocation/effect.ts";
import type { Events } from "./telemetry/events.ts";
import type { Span, Tracing } from "./telemetry/tracing.ts";
import type { TokenCache, TokenReader } from "./validation/ports.ts";

/* The steps of a call as spans. Each wraps a port, so that without traces the ports are used as they are. */

export function tracedReader(reader: TokenReader, tracing: Tracing | undefined): TokenReader {
  if (tracing === undefined) return reader;
  return {
    read: (digest, timeoutMs) => tracing.child("postgres.lookup", () => reader.read(digest, timeoutMs)),
    reconnect: () => reader.reconnect(),
  };
}

export function tracedCache<T extends TokenCache>(cache: T | undefined, tracing: Tracing | undefined) {
  if (cache === undefined || tracing === undefined) return cache;
  return {
    get: (digest, epoch) => tracing.child("redis.get", () => cache.get(digest, epoch)),
    fill: (snapshot) => cache.fill(snapshot),
    get ready() {
      return cache.ready;
    },
  } satisfies TokenCache;
}

/** The events of a listener, which put each verdict on the current span. */
export function tracedEvents(events: Events, tracing: Tracing | undefined): Events {
  if (tracing === undefined) return events;
  return {
    ...events,
    validated(verdict, reason, tier, seconds, tokenId) {
      events.validated(verdict, reason, tier, seconds, tokenId);
      tracing.note({ verdict, reason, tier, tokenId });
    },
  };
}

export function tracedIssuer(
  issuer: Pick<AuthorityStore, "createToken">,
  tracing: Tracing | undefined,
): Pick<AuthorityStore, "createToken"> {
  if (tracing === undefined) return issuer;
  return { createToken: (...given) => tracing.child("transaction", () => issuer.createToken(...given)) };
}

/** A change of authority: its transactions, and from the commit the wait until it is in force. */
export function tracedAuthority(authority: Authority, now: () => number, tracing: Tracing | undefined): Authority {
  if (tracing === undefined) return authority;
  return {
    async change(work, options) {
      let committed: number | undefined;
      const waited = (): Span | undefined =>
        committed === undefined || options.noWait ? undefined : tracing.begin("ack_wait", now() - committed);
      try {
        const done = await authority.change(async (store) => {
          const commit = await tracing.child("transaction", () => work(store));
          committed ??= now();
          return commit;
        }, options);
        const { mode, waitedMs, position } = done.effect;
        const wait = waited();
        wait?.set({ mode, waitedMs: Math.round(waitedMs), position });
        wait?.end();
        return done;
      } catch (error) {
        waited()?.end(true);
        throw error;
      }
    },
  };
}
