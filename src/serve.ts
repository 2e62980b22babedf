import { existsSync, unwatchFile, watchFile } from "node:fs";
import { build } from "./build.ts";
import type { Config } from "./config/schema.ts";
import { StartError } from "./domain/start-error.ts";
import { adminTokenFile, EMBEDDED_ISSUER, keyringOf, signingOf, writeSecret } from "./embedded/data-folder.ts";
import { type Embedded, startEmbedded } from "./embedded/embedded.ts";
import { notifySystemd } from "./ops/systemd.ts";
import { bootstrap } from "./postgres/first-admin.ts";
import { NO_JOURNAL, needsJournal, openJournal } from "./postgres/journal-schema.ts";
import { migrate } from "./postgres/migrate.ts";
import { assertBothReachable, assertRights } from "./postgres/preflight.ts";
import { createSallyport, type Sallyport, systemClock, systemTimers } from "./sallyport.ts";
import { type Started, startText } from "./start-text.ts";
import { NOTES } from "./telemetry/events.ts";
import { createTelemetry, prettyOutput, type Telemetry } from "./telemetry/telemetry.ts";
import type { Tracing } from "./telemetry/tracing.ts";
import { assertUsable } from "./usable.ts";
import { Workers } from "./workers/primary.ts";

/**
 * Time for calls in progress and, after an orchestrator's SIGTERM, for its probes. A person who presses Ctrl-C waits
 * less.
 */
export const GRACE_MS = { SIGTERM: 8_000, SIGINT: 3_000, database: 3_000, workers: 3_000 };
const WATCH_MS = 2_000;
const NEVER = new Promise<never>(() => {});
/** One Ctrl-C arrives twice: npm forwards the SIGINT that the terminal already sent to the whole process group. */
const SAME_SIGNAL_MS = 1_000;

/**
 * Runs the server until a signal. Under systemd (`env`) it reports readiness and stop. Returns the exit code: 0 after a
 * drain, 69 if the embedded database ended, 70 if workers end again and again.
 */
export async function serve(given: Config, load: () => Config, env: NodeJS.ProcessEnv): Promise<number> {
  assertUsable(given);
  const forPerson = given.log.format === "pretty" || (given.log.format === "auto" && process.stdout.isTTY);
  const telemetry = createTelemetry(given.log.level, forPerson ? prettyOutput(env) : undefined);
  surviveFaults(telemetry);
  const { version, commit } = build();
  telemetry.runs({ version, commit }, given.revocation.lease / 1000);
  telemetry.note("starting", { node: process.version, pid: process.pid, mode: given.mode });
  for (const warning of given.warnings) telemetry.note("configuration_warning", { warning });
  const tracing = await tracingOf(env, version, telemetry);
  const signals = new Signals();
  const embedded = given.database.url === undefined ? await embeddedDatabase(given, telemetry) : undefined;
  try {
    const config = embedded === undefined ? given : { ...given, ...embedded.config };
    const { url, direct_url: directUrl } = config.database;
    await assertBothReachable(url!, directUrl);
    if (config.mode === "full") {
      const applied = await migrate(directUrl ?? url!);
      for (const name of applied) telemetry.note("migrated", { name });
    }
    await assertRights(url!, config.mode, false, directUrl);
    if (config.mode === "full" && config.journal.url !== undefined) {
      const away = await openJournal(directUrl ?? url!, config.journal.url);
      if (away !== undefined) telemetry.trouble("journal_failed", away);
    } else if (config.mode === "full" && (await needsJournal(directUrl ?? url!))) {
      telemetry.note("configuration_warning", { warning: NO_JOURNAL });
    }
    if (embedded !== undefined) await firstAdmin(config, telemetry);
    const workers =
      config.workers > 1
        ? new Workers({ clock: systemClock, timers: systemTimers, telemetry }, config.workers)
        : undefined;
    const sallyport = await createSallyport(config, telemetry, tracing, { workers });
    signals.onReload = () => reload(sallyport, load, telemetry);
    // Polled, because a mounted secret changes when a link moves, which a file watch misses.
    for (const file of config.files) watchFile(file, { interval: WATCH_MS, persistent: false }, signals.onReload);
    announce(sallyport, config, embedded !== undefined, version, forPerson);
    const notify = (state: "READY=1" | "STOPPING=1") =>
      void notifySystemd(state, env).catch(({ message }: Error) =>
        telemetry.note("systemd_notify_failed", { message }),
      );
    notify("READY=1");
    const why = await Promise.race([
      signals.stop,
      embedded?.database.exited.then(() => "database" as const) ?? NEVER,
      workers?.failed.then(() => "workers" as const) ?? NEVER,
    ]);
    telemetry.note("stopping", { because: why });
    notify("STOPPING=1");
    await sallyport.stop(GRACE_MS[why]);
    return why === "database" ? 69 : why === "workers" ? 70 : 0;
  } finally {
    await embedded?.database.stop();
    signals.onReload = () => {};
    for (const file of given.files) unwatchFile(file);
    await tracing?.close();
    telemetry.note("stopped");
    telemetry.flush();
  }
}

/** With `--save-prod`, because npm leaves out a development dependency even where a person asks for it. */
const PACKAGES =
  "@opentelemetry/api@1.10.0 @opentelemetry/sdk-trace@3.1.0 @opentelemetry/resources@3.1.0 @opentelemetry/exporter-trace-otlp-http@0.301.0";

/** Traces, if the environment has an endpoint for them. The packages are optional: nothing else imports them. */
export async function tracingOf(
  env: NodeJS.ProcessEnv,
  version: string,
  telemetry: Telemetry,
): Promise<Tracing | undefined> {
  const names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
  const name = names.find((one) => (env[one] ?? "").trim() !== "");
  if (name === undefined || env["OTEL_SDK_DISABLED"]?.toLowerCase() === "true") return undefined;
  if (!/^https?:\/\/[^\s/]/.test(env[name]!))
    throw new StartError("config_invalid", `${name}: must be http://host:port or https://host:port`);
  try {
    const { otlpTracing } = await import("./telemetry/otlp.ts");
    const service = env["OTEL_SERVICE_NAME"] || "sallyport";
    return otlpTracing({ service, version, dropped: (spans) => telemetry.spansDropped(spans) });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new StartError(
      "config_invalid",
      `${name} asks for traces, and their packages are not installed: npm install --no-save --save-prod --omit=dev ${PACKAGES}`,
    );
  }
}

async function embeddedDatabase(config: Config, telemetry: Telemetry) {
  const dataDir = config.embedded.data_dir;
  const database: Embedded = await startEmbedded({
    dataDir,
    log: (line) => telemetry.note("embedded_database", { line }),
  });
  return {
    database,
    config: {
      database: { ...config.database, url: database.url },
      keyring: config.keyring ?? keyringOf(dataDir),
      signing: config.signing ?? signingOf(dataDir, EMBEDDED_ISSUER),
    },
  };
}

/** The first start on an empty database writes one admin token to the data folder. */
async function firstAdmin(config: Config, telemetry: Telemetry): Promise<void> {
  const file = adminTokenFile(config.embedded.data_dir);
  const made = await bootstrap({
    url: config.database.url!,
    keyring: config.keyring!,
    ttlMs: undefined,
    again: false,
    keep: (tokenString) => writeSecret(file, `${tokenString.reveal()}\n`),
  });
  if (made) telemetry.note("first_admin_written", { file });
  else if (!existsSync(file)) telemetry.note("first_admin_missing", { file });
}

/** Tells where the listeners are: to a person in words, else in one line of JSON. */
function announce(sallyport: Sallyport, config: Config, isEmbedded: boolean, version: string, forPerson: boolean) {
  const { data, admin, ops } = sallyport.listeners;
  const url = (listener: { address: string; port: number }, tls?: object) =>
    listener.port === 0
      ? `unix:${listener.address}`
      : `${tls === undefined ? "http" : "https"}://${listener.address}:${listener.port}`;
  const dataDir = config.embedded.data_dir;
  const started: Started = {
    version,
    // Since the process began.
    seconds: Math.round(systemClock.mono()) / 1000,
    data: url(data, config.listeners.data.tls),
    admin: admin && url(admin, config.listeners.admin.tls),
    ops: url(ops!),
    workers: config.workers,
    console:
      config.console.enabled && admin !== undefined && admin.port !== 0
        ? consoleUrl(config, url(admin, config.listeners.admin.tls))
        : undefined,
    embedded: isEmbedded ? { dataDir, adminTokenFile: adminTokenFile(dataDir) } : undefined,
  };
  if (forPerson) process.stdout.write(startText(started));
  else {
    // A line of the log at every level: the only way to learn a port that the system chose.
    const time = new Date(systemClock.wall()).toISOString();
    const { seconds, admin: adminUrl, data: dataUrl, ops: opsUrl, workers } = started;
    const facts = {
      seconds,
      data: dataUrl,
      admin: adminUrl,
      ops: opsUrl,
      ...(workers > 1 && { workers }),
      msg: NOTES.ready,
    };
    process.stdout.write(`${JSON.stringify({ level: "info", time, event: "ready", ...facts })}\n`);
  }
}

/** Where a browser reaches the console. */
function consoleUrl({ console }: Config, admin: string): string {
  return `${console.public_url ?? admin}/console/`;
}

/** A broken configuration keeps the old state and is reported. */
export function reload(sallyport: Sallyport, load: () => Config, telemetry: Telemetry): void {
  try {
    const fresh = load();
    assertUsable(fresh);
    if (sallyport.reload(fresh)) telemetry.note("reloaded");
  } catch (error) {
    const problems = error instanceof StartError ? error.problems.join("; ") : (error as Error).name;
    telemetry.alarm("reload_rejected", { problems });
  }
}

/**
 * The last resort. An exception that escapes from a library raises an alarm and does not end the process: a process
 * that ends refuses everything, and an attacker who can end it once could do so again. Caches stay safe, because a poll
 * gives a lease only as the last step after it is applied as a whole.
 */
export function surviveFaults(telemetry: Telemetry): void {
  const survive = (name: "uncaught_exception" | "unhandled_rejection") => (error: unknown) => {
    telemetry.alarm(name, {});
    telemetry.trouble(name, error);
  };
  process.on("uncaughtException", survive("uncaught_exception"));
  process.on("unhandledRejection", survive("unhandled_rejection"));
}

/**
 * SIGTERM and SIGINT stop the server. A second signal, more than a second later, stops it at once. SIGHUP reloads. The
 * handlers stay to the end, because a late duplicate of the first signal would otherwise kill the process while it
 * stops.
 */
export class Signals {
  readonly stop: Promise<"SIGTERM" | "SIGINT">;
  onReload: () => void = () => {};

  constructor() {
    const { promise, resolve } = Promise.withResolvers<"SIGTERM" | "SIGINT">();
    this.stop = promise;
    let first: number | undefined;
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        if (first !== undefined && systemClock.mono() - first >= SAME_SIGNAL_MS) process.exit(1);
        first ??= systemClock.mono();
        resolve(signal);
      });
    }
    process.on("SIGHUP", () => this.onReload());
  }
}
