import cluster from "node:cluster";
import type { Config } from "../config/schema.ts";
import type { Verdict } from "../domain/decide.ts";
import type { Start, Stop, ToPrimary, ToWorker } from "./messages.ts";

/** The primary, seen from a worker. */
export class Primary {
  /** Resolves when the primary says so. */
  readonly stop: Promise<Stop>;
  /** Resolves when the primary has ended. */
  readonly lost: Promise<void>;
  onReload: (config: Config) => void = () => {};
  /** Answers the canary. */
  onValidate: (tokenString: string) => Promise<Verdict> = async () => "UNDETERMINED";
  onMetrics: () => Promise<readonly object[]> = async () => [];
  readonly #started = Promise.withResolvers<Start>();
  #feeds: "no" | "saying" | "said" = "no";
  #ready: boolean | undefined;

  constructor() {
    const stop = Promise.withResolvers<Stop>();
    const lost = Promise.withResolvers<void>();
    this.stop = stop.promise;
    this.lost = lost.promise;
    process.on("message", (message: ToWorker) => {
      if (message.kind === "start") this.#started.resolve(message.start);
      else if (message.kind === "reload") this.onReload(message.config);
      else if (message.kind === "stop") stop.resolve(message.stop);
      else if (message.kind === "metrics") void this.report();
      else void this.#answer(message.nr, message.tokenString);
    });
    process.once("disconnect", () => lost.resolve());
  }

  /** The number of this worker; a worker that replaces another has a new one. */
  get id(): number {
    return cluster.worker!.id;
  }

  /** Asks the primary for what this worker must know. */
  start(): Promise<Start> {
    this.#say({ kind: "hello" });
    return this.#started.promise;
  }

  /**
   * From here on the end of the primary ends this process by `lost`. Before, and by default, Node ends it at once.
   */
  outliveDisconnect(): void {
    cluster.worker!.exitedAfterDisconnect = true;
  }

  /** The next message asks for the socket. */
  binding(): void {
    this.#say({ kind: "binding" });
  }

  /** This id is about to be registered. */
  row(id: string): void {
    this.#say({ kind: "row", id });
  }

  /** Called first when the listener is open. */
  ready(ready: boolean): void {
    if (ready !== this.#ready) this.#say({ kind: "ready", ready });
    this.#ready = ready;
  }

  reused(token: string): void {
    this.#say({ kind: "reused", token });
  }

  /**
   * True once the primary is sure to learn that this worker feeds client caches. Before, no cache may have a lease: if this
   * process ended, the primary would delete its row, and no change would wait for the cache.
   */
  knowsFeed(): boolean {
    if (this.#feeds === "no") {
      this.#feeds = "saying";
      // The callback says that the message is written. The primary reads it even if this process ends.
      this.#say({ kind: "feeds" }, (error) => (this.#feeds = error === null ? "said" : "no"));
    }
    return this.#feeds === "said";
  }

  async report(): Promise<void> {
    this.#say({ kind: "metrics", metrics: await this.onMetrics() });
  }

  /** Lets this process end. */
  release(): void {
    process.channel?.unref();
  }

  async #answer(nr: number, tokenString: string): Promise<void> {
    const verdict = await this.onValidate(tokenString).catch(() => "UNDETERMINED" as const);
    this.#say({ kind: "verdict", nr, verdict });
  }

  /** Without the primary there is nobody to say it to, and `lost` ends this process. */
  #say(message: ToPrimary, done: (error: Error | null) => void = () => {}): void {
    process.send!(message, undefined, undefined, done);
  }
}
