import type { Cluster, Redis } from "ioredis";
import type { Events } from "../telemetry/events.ts";
import { openRedis, type RedisConnection, safeCause } from "./client.ts";

export interface RedisWakeUpsOptions {
  /** The connection that publishes. */
  readonly redis: RedisConnection;
  /** The URL for the separate connection that subscribes. */
  readonly url: string;
  readonly events: Pick<Events, "trouble">;
}

export const CHANNEL = "sallyport:rev";
const COMMAND_MS = 1000;

/**
 * Wake-ups by PUBLISH. They carry no data: a forged one costs a poll, and a lost one delays the change to the next
 * poll.
 */
export class RedisWakeUps {
  readonly #redis: RedisConnection;
  readonly #subscriber: Redis | Cluster;
  readonly #listeners: (() => void)[] = [];
  #sending = false;
  #again = false;

  constructor({ redis, url, events }: RedisWakeUpsOptions) {
    this.#redis = redis;
    const trouble = (error: Error) => events.trouble("wake_ups_unavailable", error);
    this.#subscriber = openRedis(url, COMMAND_MS, trouble);
    this.#subscriber.on("ready", () => {
      this.#subscriber.subscribe(CHANNEL).catch((error) => trouble(safeCause(error)));
    });
    this.#subscriber.on("message", () => {
      for (const listener of this.#listeners) listener();
    });
  }

  /** One at a time. Wake-ups that are requested meanwhile are sent as one. */
  publish(): void {
    this.#again = this.#sending;
    if (this.#sending) return;
    this.#sending = true;
    void this.#redis
      .ask((commands) => commands.publish(CHANNEL, ""))
      .finally(() => {
        this.#sending = false;
        if (this.#again) this.publish();
      });
  }

  onWakeUp(listener: () => void): void {
    this.#listeners.push(listener);
  }

  close(): void {
    this.#subscriber.disconnect();
  }
}
