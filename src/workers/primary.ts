import cluster, { type Worker } from "node:cluster";
import type { Config } from "../config/schema.ts";
import type { Clock, Timers } from "../domain/clock.ts";
import type { Verdict } from "../domain/decide.ts";
import { StartError } from "../domain/start-error.ts";
import { assertFree, parseBind } from "../listen/bind.ts";
import { MergedMetrics } from "../telemetry/merged-metrics.ts";
import type { Telemetry } from "../telemetry/telemetry.ts";
import type { Start, ToPrimary, ToWorker } from "./messages.ts";
import { reloaded } from "./share.ts";

/** The work that the rest of the primary does for its workers. */
export interface WorkersHooks {
  /**
   * A worker has ended: no process holds a lease under these rows. `fed`: client caches may still hold leases under them.
   */
  ended(rows: readonly string[], fed: boolean): void;
  /** A worker saw the string of this token after its rotation had ended it. */
  reused(token: string): void;
}

export interface WorkersDeps {
  readonly clock: Pick<Clock, "mono">;
  readonly timers: Timers;
  readonly telemetry: Telemetry;
}

interface Member {
  readonly worker: Worker;
  /** Its rows in the registry, the newest last. Only one is registered, but a failed registration may exist all the same. */
  readonly rows: string[];
  fed: boolean;
  ready: boolean;
  reports: (() => void)[];
}

const MOST_ROWS = 20;
const MOST_DEATHS = 5;
const DEATHS_MS = 10_000;
const METRICS_MS = 1_000;
const VERDICT_MS = 2_000;
const FORK_AGAIN_MS = 1_000;
/** Beyond the time for calls: a worker waits for the leases of its client caches, and deletes its row. */
const TO_END_MS = 4_000;

/**
 * The worker processes, seen from the primary. They serve the data listener: Node's cluster accepts its connections here,
 * and gives them to the workers in turn. A worker that ends is replaced.
 */
export class Workers {
  readonly #deps: WorkersDeps;
  readonly #count: number;
  readonly #members = new Map<number, Member>();
  readonly #metrics = new MergedMetrics();
  readonly #failed = Promise.withResolvers<void>();
  readonly #allOpen = Promise.withResolvers<void>();
  /** The workers that have opened their listener, at any time. */
  readonly #open = new Set<number>();
  #start: Start | undefined;
  #hooks: WorkersHooks | undefined;
  /** The questions of the canary that wait for a verdict. */
  readonly #asked = new Map<number, (verdict: Verdict) => void>();
  #questions = 0;
  #deaths: number[] = [];
  #stopping = false;
  #onEmpty: () => void = () => {};
  /** The workers that are about to bind, and the mode of the program's files until then. */
  readonly #binding = new Set<number>();
  #umask: number | undefined;

  constructor(deps: WorkersDeps, count: number) {
    this.#deps = deps;
    this.#count = count;
  }

  /** Resolves when workers ended so often that this program should end. */
  get failed(): Promise<void> {
    return this.#failed.promise;
  }

  /** The number of workers, if all live. */
  get count(): number {
    return this.#count;
  }

  /** The number of workers that can answer. */
  get ready(): number {
    return [...this.#members.values()].filter(({ ready }) => ready).length;
  }

  /** Starts the workers. Resolves when all of them accept connections. Rejects with StartError. */
  async open(start: Start, hooks: WorkersHooks) {
    const bind = parseBind(start.config.listeners.data.bind);
    await assertFree(bind);
    this.#start = start;
    this.#hooks = hooks;
    cluster.schedulingPolicy = cluster.SCHED_RR;
    // The arguments and Node's flags are those of this process. The default serialization has no NaN and no bytes.
    cluster.setupPrimary({ args: [...process.argv.slice(2), "--worker"], serialization: "advanced" });
    let port = 0;
    cluster.on("listening", ({ id }, at) => {
      port = at.port;
      this.#bound(id);
    });
    for (let i = 0; i < this.#count; i++) this.#fork();
    await Promise.race([this.#allOpen.promise, this.failed]);
    if (this.#stopping) {
      await this.#stop(0, 0);
      throw new StartError("workers_failing", "worker processes ended again and again");
    }
    const unix = "path" in bind;
    return {
      address: unix ? bind.path : bind.host,
      port: unix ? 0 : port,
      drain: (graceMs: number, leastDelayMs: number) => this.#stop(graceMs, leastDelayMs),
      close: () => this.#stop(0, 0),
      reloadTls: () => true, // each worker loads its own
    };
  }

  /** Gives the workers, and those that start later, a new configuration. */
  reload(fresh: Config): void {
    if (this.#start !== undefined) this.#start = { ...this.#start, config: reloaded(this.#start.config, fresh) };
    for (const { worker } of this.#members.values()) send(worker, { kind: "reload", config: fresh });
  }

  /** The metrics of this process and its workers. A worker that does not answer counts as it last did. */
  async metrics(): Promise<string> {
    const { telemetry, timers } = this.#deps;
    await Promise.all(
      [...this.#members.values()].map(
        (member) =>
          new Promise<void>((resolve) => {
            const cancel = timers.after(METRICS_MS, resolve);
            member.reports.push(() => {
              cancel();
              resolve();
            });
            send(member.worker, { kind: "metrics" });
          }),
      ),
    );
    return this.#metrics.page(telemetry.registry);
  }

  /** A question of the canary to the worker in one of the places, 0 to `count` - 1. Rejects if there is no answer. */
  ask(place: number, tokenString: string): Promise<Verdict> {
    const { promise, resolve, reject } = Promise.withResolvers<Verdict>();
    const member = [...this.#members.values()][place];
    const nr = ++this.#questions;
    const cancel = this.#deps.timers.after(VERDICT_MS, () => {
      this.#asked.delete(nr);
      reject(new Error("the worker does not answer"));
    });
    this.#asked.set(nr, (verdict) => {
      cancel();
      this.#asked.delete(nr);
      resolve(verdict);
    });
    if (member !== undefined) send(member.worker, { kind: "validate", nr, tokenString });
    return promise;
  }

  #fork(): void {
    if (this.#stopping) return;
    const { telemetry, timers } = this.#deps;
    let worker: Worker;
    try {
      worker = cluster.fork();
    } catch (error) {
      telemetry.trouble("worker_exited", error);
      timers.after(FORK_AGAIN_MS, () => this.#fork());
      return;
    }
    const member: Member = { worker, rows: [], fed: false, ready: false, reports: [] };
    this.#members.set(worker.id, member);
    worker.on("message", (message: ToPrimary) => this.#heard(member, message));
    // Dead, and everything read that it had written.
    let left = 2;
    const ended = () => {
      if (--left === 0) this.#ended(member);
    };
    worker.once("exit", ended);
    worker.once("disconnect", ended);
    worker.on("error", (error) => {
      telemetry.trouble("worker_exited", error, { worker: worker.id });
      // The system has no room for a process: no other event comes.
      if (worker.process.pid === undefined && this.#members.delete(worker.id)) {
        timers.after(FORK_AGAIN_MS, () => this.#fork());
      }
    });
  }

  #heard(member: Member, message: ToPrimary): void {
    const { worker } = member;
    switch (message.kind) {
      case "hello":
        send(worker, { kind: "start", start: this.#start! });
        break;
      case "binding":
        this.#willBind(worker.id);
        break;
      case "row":
        member.rows.push(message.id);
        if (member.rows.length > MOST_ROWS) member.rows.shift();
        break;
      case "feeds":
        member.fed = true;
        break;
      case "ready":
        member.ready = message.ready;
        this.#deps.telemetry.workers(this.ready);
        this.#open.add(worker.id);
        if (this.#open.size >= this.#count) this.#allOpen.resolve();
        break;
      case "reused":
        this.#hooks!.reused(message.token);
        break;
      case "verdict":
        this.#asked.get(message.nr)?.(message.verdict);
        break;
      case "metrics":
        this.#metrics.reported(worker.id, message.metrics);
        for (const done of member.reports.splice(0)) done();
    }
  }

  #ended(member: Member): void {
    const { telemetry, clock } = this.#deps;
    const { worker, rows, fed } = member;
    if (!this.#members.delete(worker.id)) return;
    this.#bound(worker.id);
    this.#metrics.ended(worker.id);
    for (const done of member.reports.splice(0)) done();
    telemetry.workers(this.ready);
    if (rows.length > 0) this.#hooks!.ended(rows, fed);
    if (this.#stopping) {
      if (this.#members.size === 0) this.#onEmpty();
      return;
    }
    const { exitCode, signalCode } = worker.process;
    if (exitCode !== 0) {
      const how = signalCode ?? `code ${exitCode}`;
      telemetry.trouble("worker_exited", undefined, { worker: worker.id, how });
      const now = clock.mono();
      this.#deaths = [...this.#deaths, now].filter((at) => now - at < DEATHS_MS);
      if (this.#deaths.length >= MOST_DEATHS) {
        telemetry.alarm("workers_failing", { deaths: MOST_DEATHS, how });
        this.#stopping = true;
        this.#failed.resolve();
        return;
      }
    }
    this.#fork();
  }

  /** Resolves when all workers have ended. Those that are late are killed. */
  async #stop(graceMs: number, leastDelayMs: number): Promise<void> {
    const { timers } = this.#deps;
    this.#stopping = true;
    if (this.#members.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onEmpty = resolve;
    for (const { worker } of this.#members.values()) send(worker, { kind: "stop", stop: { graceMs, leastDelayMs } });
    const cancel = timers.after(graceMs + TO_END_MS, () => {
      for (const { worker } of this.#members.values()) worker.process.kill("SIGKILL");
    });
    await promise;
    cancel();
  }

  /**
   * Node's cluster makes the socket in this process, when the worker's next message arrives. A socket file must have its
   * mode from the start.
   */
  #willBind(id: number): void {
    const { bind, unix_mode: mode } = this.#start!.config.listeners.data;
    if (!bind.startsWith("unix:")) return;
    this.#binding.add(id);
    this.#umask ??= process.umask(0o777 & ~mode);
  }

  #bound(id: number): void {
    this.#binding.delete(id);
    if (this.#umask === undefined || this.#binding.size > 0) return;
    process.umask(this.#umask);
    this.#umask = undefined;
  }
}

/** A worker that has ended meanwhile does not matter: its end is handled. */
function send(worker: Worker, message: ToWorker): void {
  if (worker.isConnected()) worker.send(message, () => {});
}
