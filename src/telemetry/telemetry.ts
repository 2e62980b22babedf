import { pino } from "pino";
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { RefusalReason, Verdict } from "../domain/decide.ts";
import { AppError, type Reason } from "../domain/errors.ts";
import { EXCHANGE_OUTCOMES, type ExchangeOutcome } from "../domain/exchange.ts";
import type { SessionRefusal } from "../domain/session.ts";
import { StartError } from "../domain/start-error.ts";
import {
  ALARMS,
  type CallLine,
  type EventName,
  type Events,
  GUARD_STATES,
  LINES,
  NOTES,
  type Tier,
  TROUBLES,
  WARNINGS,
} from "./events.ts";
import { pretty } from "./pretty.ts";
import { ValidationMetrics } from "./validation-metrics.ts";

export interface Telemetry extends Events {
  /** Writes what the log still holds back. */
  flush(): void;
  readonly registry: Registry;
  /** Events for one listener, which a validation does not know itself. */
  forListener(listener: string): Events;
  called(line: CallLine): void;
  /** Sets the metrics of the running build and of the length of its leases. */
  runs(build: { readonly version: string; readonly commit: string }, leaseSeconds: number): void;
  /** When a listener's certificate ends, in seconds since 1970. */
  certificate(listener: string, endsAt: number): void;
  /** A session JWT was refused, for its true reason. */
  sessionRefused(reason: SessionRefusal): void;
  /** An exchange of a workload's JWT, by its true outcome. */
  exchanged(outcome: ExchangeOutcome): void;
  /** The time since the last good fetch of an issuer's keys. */
  keysAge(issuer: string, seconds: number): void;
  /** A TLS handshake with a listener that failed. */
  handshakeFailed(listener: string, address: string, why: string): void;
  /** So many worker processes can answer. */
  workers(ready: number): void;
  /** So many spans did not reach the collector. */
  spansDropped(spans: number): void;
  /** A counter of answered calls of one method, cheap enough for the hot path. These calls are not logged. */
  answered(method: string): () => void;
}

const TEXTS: Readonly<Record<EventName, string>> = { ...TROUBLES, ...ALARMS, ...NOTES, ...WARNINGS, ...LINES };

export interface Output {
  write(line: string): void;
  flush?(): void;
}

/** Stdout, without waiting for a reader. A reader that stalls loses lines beyond 4 MiB. */
function output() {
  return pino.destination({ fd: 1, sync: false, maxLength: 4 * 1024 * 1024 });
}

/** The log as text for a person, in colours unless `env` has NO_COLOR (https://no-color.org). */
export function prettyOutput(env: NodeJS.ProcessEnv): Output {
  const stdout = output();
  const colour = !env["NO_COLOR"];
  return { write: (line) => void stdout.write(pretty(line, colour)), flush: () => stdout.flushSync() };
}

/** Logs and metrics; the lines of a worker carry its number and process id. The content of a line is named here, field by field; no object is serialised as a whole. */
export function createTelemetry(level: string, destination?: Output, worker?: number): Telemetry {
  const log = pino(
    {
      level,
      base: worker === undefined ? undefined : { worker, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: safeError },
    },
    destination ?? output(),
  );
  const line = (level: CallLine["level"], event: EventName, facts: object, text: string = TEXTS[event]) =>
    log[level]({ event, ...facts }, text);
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  // Gauges whose names say that they are counters; each stands by its kinds under the name without `_total` too.
  for (const what of ["handles", "requests", "resources"]) registry.removeSingleMetric(`nodejs_active_${what}_total`);
  const m = metrics(registry);
  for (const what of Object.keys(ALARMS)) m.alarms.inc({ what }, 0);
  for (const what of Object.keys(TROUBLES)) m.troubles.inc({ what }, 0);
  for (const mode of ["ACKED", "LEASE_EXPIRED", "ACCEPTED"]) m.revocations.inc({ mode }, 0);
  for (const outcome of ["refused", "accepted", "not_reached"]) m.canaryAsked.inc({ outcome }, 0);
  for (const outcome of EXCHANGE_OUTCOMES) m.exchanges.inc({ outcome }, 0);
  for (const reason of ["full", "database"]) m.accessDropped.inc({ reason }, 0);
  for (const what of ["applied", "held", "noted", "late"]) m.lostChanges.inc({ what }, 0);
  const validations = new ValidationMetrics(registry);
  const lastLine = new Map<string, number>();
  /** At most one line a second for each trouble of each listener and issuer, so that an outage does not fill the disk. */
  const thinned = (key: string): boolean => {
    const now = performance.now();
    if (now - (lastLine.get(key) ?? Number.NEGATIVE_INFINITY) < 1000) return true;
    lastLine.set(key, now);
    return false;
  };
  const refusals = new Map(SAMPLED.map((reason) => [reason as string, new Sample(STRANGERS_PER_SECOND)]));
  const handshakes = new Sample(STRANGERS_PER_SECOND);
  const events = (listener: string): Events => {
    const count = validations.forListener(listener);
    return {
      validated(verdict: Verdict, reason: RefusalReason | undefined, tier: Tier, seconds: number, tokenId?: string) {
        count(verdict, tier, seconds);
        if (reason !== undefined) m.refusals.inc({ reason });
        if (verdict !== "ALLOW" && log.isLevelEnabled("debug")) {
          line("debug", "token_refused", { listener, verdict, refusal: reason, token: tokenId });
        }
      },
      tokenReused(tokenId) {
        m.reuses.inc();
        line("warn", "token_reused", { token: tokenId });
      },
      authorityChanged(mode, waitedSeconds) {
        m.revocations.inc({ mode });
        m.revocationWait.observe(waitedSeconds);
      },
      audited: (action) => m.auditEvents.inc({ action }),
      lease: (ageSeconds) => m.leaseAge.set(ageSeconds),
      validators(counts) {
        for (const [state, count] of Object.entries(counts)) m.validators.set({ state }, count);
      },
      reaped: (instances) => m.reaped.inc(instances),
      guard(now) {
        for (const state of GUARD_STATES) m.guard.set({ state }, state === now ? 1 : 0);
      },
      lostChanges(counts) {
        for (const [what, count] of Object.entries(counts)) m.lostChanges.inc({ what }, count);
      },
      journalLag: (seconds) => m.journalLag.set(seconds),
      cacheEntries: (tier, entries) => m.cacheEntries.set({ tier }, entries),
      feedClients: (clients) => m.feedClients.set(clients),
      feedHeld: (seconds) => m.feedHeld.observe(seconds),
      accessDropped: (reason, uses) => m.accessDropped.inc({ reason }, uses),
      shed: (klass) => m.shed.inc({ class: klass }),
      canary({ refused, accepted, notReached }) {
        m.canaryAsked.inc({ outcome: "refused" }, refused);
        m.canaryAsked.inc({ outcome: "accepted" }, accepted);
        m.canaryAsked.inc({ outcome: "not_reached" }, notReached);
      },
      trouble(name, error, facts) {
        m.troubles.inc({ what: name });
        if (!thinned(`${name} ${facts?.["listener"]} ${facts?.["issuer"]}`))
          line("warn", name, { ...facts, err: error }, TROUBLES[name]);
      },
      alarm(name, facts) {
        m.alarms.inc({ what: name });
        line("error", name, { alarm: true, ...facts }, ALARMS[name]);
      },
      note: (name, facts) => line(name in WARNINGS ? "warn" : "info", name, { ...facts }),
    };
  };
  return {
    ...events("admin"),
    flush: () => log.flush(),
    registry,
    forListener: events,
    answered(method) {
      const entry = { method, count: 0 };
      m.hotCalls.push(entry);
      return () => {
        entry.count++;
      };
    },
    runs({ version, commit }, leaseSeconds) {
      m.build.set({ version, commit }, 1);
      m.lease.set(leaseSeconds);
    },
    workers: (ready) => m.workers.set(ready),
    spansDropped: (spans) => m.spansDropped.inc(spans),
    exchanged: (outcome) => m.exchanges.inc({ outcome }),
    sessionRefused: (reason) => m.sessionRefusals.inc({ reason }),
    keysAge: (issuer, seconds) => m.keysAge.set({ issuer }, seconds),
    certificate: (listener, endsAt) => m.certificateEnds.set({ listener }, endsAt),
    handshakeFailed(listener, address, why) {
      m.handshakeFailures.inc({ listener });
      const unlogged = handshakes.unlogged(performance.now());
      if (unlogged === undefined) return;
      line("info", "tls_handshake_failed", { listener, address, why, ...(unlogged > 0 && { unlogged }) });
    },
    called(call) {
      m.rpcs.inc({ method: call.method, code: call.code });
      m.rpcSeconds.observe({ method: call.method }, call.seconds);
      const sample = refusals.get(call.reason ?? "");
      const unlogged = sample === undefined ? 0 : sample.unlogged(performance.now());
      if (unlogged === undefined) return;
      const { level: at, cause, ...others } = call;
      const fields = unlogged > 0 ? { ...others, unlogged } : others;
      line(at, "call", cause === undefined ? fields : { ...fields, err: cause });
    },
  };
}

/** Refusals that cost a caller nothing: anybody, or a token without any permission, can cause any number of them. */
const SAMPLED: readonly Reason[] = [
  "CALLER_UNAUTHENTICATED",
  "CALLER_FORBIDDEN",
  "ISSUER_UNAVAILABLE",
  "INVALID_GRANT",
  "UNDECODABLE",
  "OVERLOADED",
];

/**
 * The lines a second for each of these reasons, and for failed handshakes. All are counted, in `rpc_total` and
 * `tls_handshake_failures_total`.
 */
const STRANGERS_PER_SECOND = 10;

/** Lets this many a second through, and counts the others. */
class Sample {
  readonly #perSecond: number;
  #second = Number.NEGATIVE_INFINITY;
  #taken = 0;
  #left = 0;

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
  }

  /** The number of dropped lines since the last logged one; undefined to drop this one. */
  unlogged(now: number): number | undefined {
    if (now - this.#second >= 1000) {
      this.#second = now;
      this.#taken = 0;
    }
    if (++this.#taken > this.#perSecond) {
      this.#left++;
      return undefined;
    }
    const left = this.#left;
    this.#left = 0;
    return left;
  }
}

type Merge = "sum" | "min" | "max";

function metrics(registry: Registry) {
  const hotCalls: { method: string; count: number }[] = [];
  const registers = [registry];
  const seconds = [0.000005, 0.00002, 0.0001, 0.0005, 0.002, 0.01, 0.05, 0.2, 1, 5];
  const counter = <L extends string>(name: string, help: string, labelNames: L[] = []) =>
    new Counter({ name: `sallyport_${name}`, help, labelNames, registers });
  const histogram = <L extends string>(name: string, help: string, labelNames: L[] = []) =>
    new Histogram({ name: `sallyport_${name}`, help, labelNames, buckets: seconds, registers });
  /** `merge`: how the values of several processes become one. */
  const gauge = <L extends string>(name: string, help: string, labelNames: L[] = [], merge: Merge = "max") =>
    new Gauge({ name: `sallyport_${name}`, help, labelNames, registers, aggregator: merge });
  return {
    refusals: counter("refusals_total", "INVALID_TOKEN answers, by true reason", ["reason"]),
    cacheEntries: gauge("cache_entries", "Entries in a cache", ["tier"], "sum"),
    feedClients: gauge("feed_clients", "Client caches that may hold a lease from this instance", [], "sum"),
    feedHeld: histogram("feed_held_seconds", "How long client caches held an acknowledgement back"),
    revocations: counter("revocations_total", "Changes of authority that returned OK, by mode", ["mode"]),
    revocationWait: histogram(
      "revocation_wait_seconds",
      "Time from the commit until the change is in force everywhere",
    ),
    build: gauge("build_info", "Always 1; the labels name the running build", ["version", "commit"]),
    lease: gauge("lease_seconds", "Length of a lease"),
    certificateEnds: gauge(
      "certificate_expire_time_seconds",
      "End of the listener's certificate, in seconds since 1970",
      ["listener"],
      "min",
    ),
    workers: gauge("workers", "Worker processes that can answer; 0 if the program has none"),
    leaseAge: gauge("lease_age_seconds", "Time since the last good poll was sent"),
    validators: gauge("validators", "Registered instances", ["state"]),
    reaped: counter("validators_reaped_total", "Instances that this one marked as reaped because they were silent"),
    guard: gauge("guard", "1 for the state of the database's epoch", ["state"]),
    lostChanges: counter("lost_changes_total", "Changes that the database had lost, by what became of them", ["what"]),
    journalLag: gauge("journal_lag_seconds", "Waiting time of the oldest change that is not in the journal"),
    hotCalls,
    rpcs: new Counter({
      name: "sallyport_rpc_total",
      help: "Calls by gRPC status",
      labelNames: ["method", "code"],
      registers,
      collect() {
        for (const entry of hotCalls) {
          this.inc({ method: entry.method, code: "OK" }, entry.count);
          entry.count = 0;
        }
      },
    }),
    rpcSeconds: histogram("rpc_seconds", "Duration of calls on the admin listener", ["method"]),
    handshakeFailures: counter("tls_handshake_failures_total", "Failed TLS handshakes", ["listener"]),
    sessionRefusals: counter("session_refusals_total", "Sessions refused, by true reason", ["reason"]),
    exchanges: counter("exchanges_total", "JWTs of workloads that were exchanged or refused, by true outcome", [
      "outcome",
    ]),
    keysAge: gauge("jwks_age_seconds", "Time since the issuer's keys were fetched", ["issuer"]),
    accessDropped: counter("access_audit_dropped_total", "Uses of tokens that were not recorded", ["reason"]),
    shed: counter("shed_total", "Calls refused because of load", ["class"]),
    auditEvents: counter("audit_events_total", "Audit rows written", ["action"]),
    reuses: counter("token_reuses_total", "Uses of a token string after its rotation ended it"),
    spansDropped: counter("spans_dropped_total", "Spans that did not reach the collector"),
    canaryAsked: counter("canary_total", "Instances that the canary asked about a revoked token", ["outcome"]),
    troubles: counter("troubles_total", "Failures of something that this instance depends on", ["what"]),
    alarms: counter("alarms_total", "Events that a person must look at", ["what"]),
  };
}

/** An error by class, code and, for our own, message; a driver's message can hold what it was given. */
function safeError(error: unknown): Record<string, unknown> {
  if (error instanceof AppError) {
    return {
      reason: error.reason,
      message: error.message,
      ...(error.cause !== undefined && { cause: safeError(error.cause) }),
    };
  }
  if (error instanceof Error) {
    const code = (error as { code?: unknown }).code;
    const ours = error.name === "PostgresError" || error.name === "RedisError" || error instanceof StartError;
    return {
      class: error.constructor.name,
      ...(error instanceof StartError && { kind: error.kind }),
      ...(typeof code === "string" || typeof code === "number" ? { code } : {}),
      ...(ours && { message: error.message }),
      ...(error.name === "TypeError" || error.name === "RangeError" || error.name === "ReferenceError"
        ? {
            message: error.message.slice(0, 200),
            stack: error.stack
              ?.split("\n")
              .slice(1, 6)
              .map((line) => line.trim()),
          }
        : {}),
    };
  }
  return { class: typeof error };
}
