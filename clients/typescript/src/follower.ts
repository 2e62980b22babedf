import { create } from "@bufbuild/protobuf";
import type { FeedAnswer, FeedCache } from "./cache.ts";
import { WatchChangesRequestSchema, type WatchChangesResponse } from "./gen/sallyport/v1/token_validator_pb.ts";
import { milliseconds } from "./time.ts";
import type { Validator } from "./validator.ts";

/** The longest wait for an answer; a later one is ignored. */
const GIVE_UP_MS = 1_500;
const LEAVE_MS = 500;
const PAUSE_MS = { first: 50, longest: 1_000 };

export type FeedState = "following" | "lost" | "left";

export interface FollowerOptions {
  readonly validator: Pick<Validator, "watch">;
  readonly cache: FeedCache;
  readonly mono: () => number;
  readonly feed: (state: FeedState) => void;
  readonly lease: (seconds: number) => void;
}

/** Follows the change feed for a cache: one request in flight, and the next only after its answer is applied. */
export class Follower {
  readonly #options: FollowerOptions;
  readonly #cacheId = crypto.randomUUID();
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  #sequence = 0n;
  #instanceId = "";
  #state: FeedState | undefined;

  constructor(options: FollowerOptions) {
    this.#options = options;
    this.#done = this.#run();
  }

  /** Ends the lease and tells the server, so that no change waits for this cache. Never rejects. */
  async leave(): Promise<void> {
    if (this.#stop.signal.aborted) return this.#done;
    this.#stop.abort();
    this.#options.cache.dropLease();
    await this.#done;
    try {
      await this.#options.validator.watch(this.#request(true), LEAVE_MS);
    } catch {
      // The server then waits for the end of the lease that it gave.
    }
    this.#enter("left");
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    let pause = PAUSE_MS.first;
    while (!signal.aborted) {
      const { mono, cache, validator } = this.#options;
      const request = this.#request(false);
      const sent = mono(); // before the send: a lease counts from here
      try {
        const answer = await validator.watch(request, GIVE_UP_MS, signal);
        if (signal.aborted) return;
        if (answer.sequence !== request.sequence) throw new Error("the answer is not this request's");
        this.#instanceId = answer.instanceId;
        cache.apply(feedAnswer(answer), sent);
        pause = PAUSE_MS.first;
        this.#options.lease(cache.lease / 1000);
        this.#enter("following");
      } catch {
        if (signal.aborted) return;
        this.#enter("lost");
        await sleep(pause * (0.5 + Math.random() / 2), signal);
        pause = Math.min(pause * 2, PAUSE_MS.longest);
      }
    }
  }

  #request(leaving: boolean) {
    const { epoch, position } = this.#options.cache.version;
    return create(WatchChangesRequestSchema, {
      cacheId: this.#cacheId,
      sequence: ++this.#sequence,
      epoch: Uint8Array.from(epoch, (char) => char.charCodeAt(0)),
      position: epoch === "" ? 0n : position,
      instanceId: this.#instanceId,
      leaving,
    });
  }

  #enter(state: FeedState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#options.feed(state);
  }
}

/** Text of an epoch's bytes, for comparison. */
export function epochText(epoch: Uint8Array): string {
  return String.fromCharCode(...epoch);
}

function feedAnswer(answer: WatchChangesResponse): FeedAnswer {
  const { timeLower, timeUpper } = answer;
  if (answer.epoch.length === 0) throw new Error("the answer has no epoch");
  return {
    epoch: epochText(answer.epoch),
    position: answer.position,
    // A lease without both times could judge no expiry.
    lease: timeLower !== undefined && timeUpper !== undefined ? milliseconds(answer.lease) : undefined,
    changed: answer.changed,
    floor: answer.floor,
    time: {
      lower: milliseconds(timeLower) ?? Number.NEGATIVE_INFINITY,
      upper: milliseconds(timeUpper) ?? Number.POSITIVE_INFINITY,
    },
  };
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
