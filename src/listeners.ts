import type { DescService } from "@bufbuild/protobuf";
import type { ConsoleAuth } from "./admin-api/console-auth.ts";
import { ADMIN_SERVICES, type Managers, openAdminListener } from "./admin-api/open.ts";
import { trustsPeers } from "./config/checks.ts";
import type { Config } from "./config/schema.ts";
import type { DataCallers } from "./data-plane/data-caller.ts";
import { DATA_SERVICES, openDataListener } from "./data-plane/open.ts";
import type { Policies } from "./data-plane/policy.ts";
import type { Clock } from "./domain/clock.ts";
import type { Feed } from "./feed/server.ts";
import type { Listener } from "./listen/listener.ts";
import { loopUtilization, memoryInUse } from "./listen/load.ts";
import type { TlsFiles } from "./listen/tls.ts";
import { openOpsListener } from "./ops/open.ts";
import { createAdmission } from "./rpc/admission.ts";
import type { Callers } from "./rpc/caller.ts";
import type { DenialAudit } from "./rpc/denial-audit.ts";
import { Health } from "./rpc/health.ts";
import type { JwksPage } from "./rpc/jwks.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";
import type { Tracing } from "./telemetry/tracing.ts";
import type { Validate, ValidateKnown } from "./validation/validate.ts";

export interface ListenerDeps {
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  reasons(): readonly string[];
  readonly callers: Callers;
  readonly dataCallers: DataCallers;
  readonly denials: DenialAudit;
  readonly validate: Validate;
  readonly validateKnown: ValidateKnown;
  readonly validateWithEntry: Validate;
  readonly feed: Feed;
  readonly policies: Policies;
  readonly managers: Managers;
  /** Undefined: the console has no single sign-on. */
  readonly consoleAuth: ConsoleAuth | undefined;
  /** Undefined: no traces. */
  readonly tracing: Tracing | undefined;
  readonly jwks: () => JwksPage;
  /** The page of all metrics. */
  readonly metrics: () => Promise<string>;
  /** In a primary: starts the workers, which serve the data listener. */
  readonly openWorkers: (() => Promise<DataListener>) | undefined;
  /** In a worker: called just before the primary is asked for the data listener's socket. */
  readonly binding: (() => void) | undefined;
}

/** The data listener, in this process or in workers. A worker takes at least `leastDelayMs` before it stops accepting. */
export interface DataListener extends Omit<Listener, "stats" | "drain"> {
  drain(graceMs: number, leastDelayMs: number): Promise<void>;
}

export interface Listeners {
  readonly data: DataListener;
  /** Absent in mode validate. */
  readonly admin: Listener | undefined;
  /** Absent in a worker. */
  readonly ops: Listener | undefined;
  serving(yes: boolean): void;
  /**
   * Reloads the certificates. Returns false if a file is bad; the old state stays then, and the problem is reported.
   */
  reload(): boolean;
  /**
   * Stops serving in steps. Health reports NOT_SERVING. If somebody watches health, calls are still served for a while,
   * so that watchers can turn away. Then every listener stops accepting and finishes the calls in progress. Takes at
   * most `graceMs`, plus a second for the ops listener. With less than 3 s there is no such while. It lasts at least
   * `leastDelayMs`. Never rejects.
   */
  drain(graceMs: number, leastDelayMs: number): Promise<void>;
}

/**
 * Health watchers are notified immediately and need a moment to turn away; pollers need one poll interval to notice.
 */
const WATCHER_DELAY_MS = 1_000;
const POLLER_DELAY_MS = 5_000;
/** The longest usual poll interval: Kubernetes polls every 10 s. */
const POLLED_LATELY_MS = 15_000;
/** The part of a drain's time that is kept for calls in progress. */
const TO_FINISH_MS = 3_000;
const OPS_GRACE_MS = 1_000;

/** Opens the listeners, in the order in which they are needed. Rejects with StartError; then none is left open. */
export async function openListeners(config: Config, deps: ListenerDeps): Promise<Listeners> {
  let polled = Number.NEGATIVE_INFINITY;
  const notePoll = () => void (polled = deps.clock.mono());
  const healthOf = (services: readonly DescService[]) =>
    new Health(
      services.map(({ typeName }) => typeName),
      notePoll,
    );
  const health = {
    data: healthOf(DATA_SERVICES),
    admin: healthOf(ADMIN_SERVICES),
    ops: healthOf([...DATA_SERVICES, ...ADMIN_SERVICES]),
  };
  const admission = createAdmission({
    clock: deps.clock,
    onShed: (klass) => deps.telemetry.shed(klass),
    utilization: loopUtilization(),
    // Each of them knows only its own.
    memory: () => memoryInUse(config.workers > 1 ? config.workers + 1 : 1),
  });
  const drain = { admin: new AbortController(), ops: new AbortController() };
  let draining = false;
  const reasons = () => {
    notePoll(); // `/readyz`
    return deps.reasons();
  };
  const opened: Pick<Listener, "close" | "reloadTls">[] = [];
  try {
    const settings = config.listeners;
    const { clock, telemetry, validate, validateKnown, policies, callers, denials, managers, jwks } = deps;
    const { validateWithEntry, feed, tracing } = deps;
    const ops =
      deps.binding === undefined
        ? await openOpsListener({
            bind: settings.ops.bind,
            unixMode: settings.ops.unix_mode,
            telemetry,
            metrics: deps.metrics,
            reasons,
            health: health.ops,
            drain: drain.ops.signal,
          })
        : undefined;
    if (ops !== undefined) opened.push(ops);
    const admin =
      config.mode === "full"
        ? await openAdminListener({
            bind: settings.admin.bind,
            unixMode: settings.admin.unix_mode,
            tls: tlsOf(settings.admin.tls),
            trustedProxies: settings.admin.trusted_proxies,
            ...{ clock, telemetry, callers, denials, admission, managers, jwks, tracing },
            health: health.admin,
            console: config.console.enabled
              ? {
                  version: managers.info.version,
                  tokenSignIn: config.console.token_sign_in,
                  idleTimeoutMs: config.console.idle_timeout,
                  auth: deps.consoleAuth,
                }
              : undefined,
            ownHosts: hostsOf(config.console.public_url),
            drain: drain.admin.signal,
          })
        : undefined;
    if (admin !== undefined) opened.push(admin);
    const openData = () =>
      openDataListener({
        bind: settings.data.bind,
        unixMode: settings.data.unix_mode,
        binding: deps.binding,
        tls: tlsOf(settings.data.tls),
        http2: settings.data.http2,
        maxConnections: settings.data.max_connections,
        trust: trustsPeers(settings.data) ? "trusted" : "untrusted",
        callers: deps.dataCallers,
        ...{ clock, telemetry, admission, validate, validateKnown, validateWithEntry, feed, policies, jwks, tracing },
        health: health.data,
      });
    const data: DataListener = await (deps.openWorkers ?? openData)();
    opened.push(data);
    return {
      data,
      admin,
      ops,
      serving: (yes) => {
        for (const each of Object.values(health)) each.set(yes && !draining);
      },
      reload: () => opened.map((listener) => listener.reloadTls()).every(Boolean),
      async drain(graceMs, leastDelayMs) {
        draining = true;
        const pollers = deps.clock.mono() - polled < POLLED_LATELY_MS;
        const watchers = Object.values(health).some(({ watched }) => watched);
        for (const each of Object.values(health)) each.set(false);
        const wanted = pollers ? POLLER_DELAY_MS : watchers ? WATCHER_DELAY_MS : 0;
        const delay = Math.max(0, Math.min(Math.max(wanted, leastDelayMs), graceMs - TO_FINISH_MS));
        const later = new Promise((resolve) => setTimeout(resolve, delay));
        // Workers say at once that they stop, and wait by themselves.
        const workers = deps.openWorkers && data.drain(graceMs, delay);
        await later;
        drain.admin.abort();
        await Promise.all([workers ?? data.drain(graceMs - delay, 0), admin?.drain(graceMs - delay)]);
        drain.ops.abort(); // probes see NOT_SERVING to the end
        await ops?.drain(OPS_GRACE_MS);
        admission.close();
      },
    };
  } catch (error) {
    await Promise.all(opened.map((listener) => listener.close()));
    admission.close();
    throw error;
  }
}

/** The host of a URL as a browser writes it in `origin`: in lower case, and without the port that its scheme implies. */
function hostsOf(publicUrl: string | undefined): string[] {
  if (publicUrl === undefined) return [];
  const [scheme, host = ""] = publicUrl.toLowerCase().split("://");
  return [host.replace(scheme === "https" ? /:443$/ : /:80$/, "")];
}

function tlsOf(tls: Config["listeners"]["data"]["tls"]): TlsFiles | undefined {
  if (tls === undefined) return undefined;
  return {
    certFile: tls.cert_file,
    keyFile: tls.key_file,
    clientCaFile: tls.client_ca_file,
    allowedSans: tls.allowed_sans,
  };
}
