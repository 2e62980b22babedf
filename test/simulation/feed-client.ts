import { decide, NO_REQUIREMENT, type Requirement, type Verdict } from "../../src/domain/decide.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import type { FeedAnswer } from "../../src/feed/server.ts";
import type { ValidationResult } from "../../src/validation/validate.ts";
import { type ClientFaults, FeedCache } from "../support/feed-cache.ts";
import type { Instance, Simulation, TokenName } from "./simulation.ts";
import { Machine } from "./world.ts";

const GIVE_UP_MS = 1_500;
/** Short, so that a refusal before its time does not outlive the tolerance of the checker. */
const REFUSAL_MS = 1_000;

/** A program with a client cache, on a machine of its own: it follows the feed of one instance, and asks it. */
export class FeedClient {
  readonly name: string;
  readonly machine: Machine;
  readonly #sim: Simulation;
  readonly #faults: ClientFaults;
  readonly #cache: FeedCache<TokenSnapshot>;
  #place: number;
  #asked = 0;
  #heldUntil = 0;
  #break: (() => void) | undefined;

  constructor(sim: Simulation, name: string, place: number, rate: number, faults: ClientFaults) {
    this.#sim = sim;
    this.name = name;
    this.#place = place;
    this.#faults = faults;
    this.machine = new Machine(sim.world, rate);
    this.#cache = new FeedCache(REFUSAL_MS, faults);
    void this.#follow();
  }

  get server(): Instance {
    return this.#sim.instances[this.#place]!;
  }

  get leased(): boolean {
    return this.machine.clock.mono() < this.#cache.leaseUntil;
  }

  get position(): number {
    return this.#cache.position;
  }

  /** Turns to another instance. What is cached stays. */
  move(place: number): void {
    this.#place = place;
    this.disconnect();
  }

  /** The connection to the feed breaks. */
  disconnect(): void {
    this.#break?.();
  }

  /** What the server answers meanwhile comes at the end of this time. */
  hold(ms: number): void {
    this.#heldUntil = Math.max(this.#heldUntil, this.#sim.world.now + ms);
  }

  /** Asks about a token, from the cache if that may be used, and has the answer judged. */
  async ask(name: TokenName, requirement: Requirement = NO_REQUIREMENT): Promise<Verdict> {
    const { world, checker, counts } = this.#sim;
    const { clock } = this.machine;
    // Each call as a process of its own: two instances may answer in either order while a change waits.
    const question = checker.ask(`${this.name}?${++this.#asked}`, this.#sim.digest(name), requirement, world.now);
    const now = clock.mono();
    const hit = this.#cache.get(name, now);
    const count = (what: string) => {
      counts[what] = (counts[what] ?? 0) + 1;
    };
    if (hit !== undefined) {
      const { value, notBefore } = hit;
      const alone = value && { ...value, parent: undefined, notBefore };
      const time = this.#cache.time(now);
      const verdict = alone ? decide(alone, requirement, { clientAddress: "" }, time).verdict : "INVALID_TOKEN";
      checker.answered(question, verdict, world.now, `${name} from the cache at ${hit.position}`);
      count(`${verdict} feed`);
      return verdict;
    }
    const answer = await this.#call<ValidationResult>(
      (one) =>
        one.validateWithEntry(
          this.#sim.text(name),
          requirement,
          { clientAddress: "" },
          one.machine.clock.mono() + 1000,
        ),
      1_000,
    );
    const verdict = answer?.verdict ?? "UNDETERMINED";
    checker.answered(question, verdict, world.now, `${name} by ${this.server.name} for a cache`);
    if (answer?.entry !== undefined) {
      this.#cache.store(name, { ...answer.entry, value: answer.snapshot, storedAt: clock.mono() });
      count("entries");
    }
    return verdict;
  }

  async #follow(): Promise<void> {
    const { world } = this.#sim;
    const { clock } = this.machine;
    const cacheId = this.name;
    for (;;) {
      const sent = clock.mono();
      const { epoch, position } = this.#cache;
      const poll = { cacheId, epoch, position, leaving: false };
      const { promise: broken, resolve } = Promise.withResolvers<undefined>();
      const gone = new AbortController();
      this.#break = () => {
        resolve(undefined);
        world.after(world.random.between(0.2, 2), () => gone.abort());
      };
      const call = (one: Instance) =>
        one.feed!.poll(poll, { connection: this, deadline: one.machine.clock.mono() + 2000, signal: gone.signal });
      const answer = await Promise.race([this.#call<FeedAnswer>(call, GIVE_UP_MS), broken]);
      if (answer === undefined) {
        this.#sim.counts["feed gave up"] = (this.#sim.counts["feed gave up"] ?? 0) + 1;
        gone.abort();
        await this.#pause(world.random.between(1, 900));
        if (world.random.chance(0.5)) this.#place = Math.floor(world.random.between(0, 3));
        continue;
      }
      if (!this.#faults.ackBeforeApply) {
        this.#cache.apply(answer, sent, clock.mono());
        continue;
      }
      const received = clock.mono();
      this.#cache.position = Math.max(this.#cache.position, answer.changes.position);
      this.#cache.epoch = answer.epoch;
      this.machine.timers.after(world.random.between(0, 60), () => this.#cache.apply(answer, sent, received));
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.machine.timers.after(ms, resolve));
  }

  /** A message to the instance and its answer, each at the mercy of the weather. Undefined if none comes in time. */
  #call<T>(run: (one: Instance) => T | Promise<T>, withinMs: number): Promise<T | undefined> {
    const { world, network } = this.#sim;
    const { random } = world;
    const one = this.server;
    const delay = () => (random.chance(network.weather.slow) ? random.between(20, 480) : random.between(0.1, 1));
    return new Promise((resolve) => {
      this.machine.timers.after(withinMs, () => resolve(undefined));
      const answer = (value: T) =>
        world.after(Math.max(delay(), this.#heldUntil - world.now), () => resolve(value), this.machine);
      const arrive = () => {
        try {
          const value = run(one);
          if (value instanceof Promise) value.then(answer, () => {});
          else answer(value);
        } catch (error) {
          if (!(error instanceof this.#sim.product.AppError)) throw error;
        }
      };
      world.after(delay(), arrive, one.machine);
    });
  }
}
