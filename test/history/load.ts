import { setTimeout as delay } from "node:timers/promises";
import type { Cell } from "./cells.ts";
import { type Changer, end } from "./changes.ts";
import type { Attempt, History, Subject } from "./history.ts";
import type { Instance } from "./instance.ts";

/** What the load runs against; read anew at each step, for instances come and go. */
export interface Target extends Changer {
  readonly history: History;
  readonly instances: readonly Instance[];
  /** Those that changes are made by now; the others may be cut off on purpose. None: no change is made. */
  changers(): readonly Instance[];
  /** The next cell that lives; undefined when the stock is used up. */
  nextCell(): Cell | undefined;
}

export interface LoadOptions {
  readonly revokers: number;
  /** Pauses between batches of one worker, and between changes of one revoker. Milliseconds. */
  readonly batchRestMs: number;
  readonly changeRestMs: number;
}

const BATCH = 100;
const LIVING = 120;
const DEAD = 80;
const ANSWER_MS = 20_000;
const TRIES = 3;

/** Whoever asks about a token of a process, and hands the answer to the checker. Rejects never. */
export async function ask(
  history: History,
  at: Instance,
  subjects: readonly Subject[],
  client = at.data,
): Promise<number[]> {
  const start = performance.now();
  const asked = subjects.map((subject) => subject.asked);
  const reply =
    subjects.length === 1 ? client.validate(asked[0]!, ANSWER_MS).then((one) => [one]) : client.batch(asked, ANSWER_MS);
  const verdicts = await reply.catch(() => undefined);
  const ended = performance.now();
  if (verdicts === undefined) {
    history.unanswered();
    return [];
  }
  for (const [i, verdict] of verdicts.entries()) {
    history.answered(subjects[i]!, `${at.name}#${at.pid}`, start, ended, verdict);
  }
  return verdicts;
}

/**
 * Validators that hammer every instance with batches about living and lately ended tokens, and revokers that end
 * tokens and ask everybody at once when they were told OK.
 */
export class Load {
  readonly ended: Cell[] = [];
  readonly times: { ms: number; mode: string; kind: string }[] = [];
  readonly #target: Target;
  readonly #options: LoadOptions;
  readonly #living: Cell[] = [];
  #running = true;
  readonly #workers: Promise<void>[] = [];
  readonly #chases = new Set<Promise<unknown>>();

  private constructor(target: Target, options: LoadOptions) {
    this.#target = target;
    this.#options = options;
  }

  /** Resolves under full load, with every living token in the caches of all. */
  static async start(target: Target, options: LoadOptions): Promise<Load> {
    const load = new Load(target, options);
    load.#refill();
    await Promise.all(target.instances.map((instance) => load.#warm(instance)));
    load.#workers.push(load.#watch());
    for (let i = 0; i < options.revokers; i++) load.#workers.push(load.#revoke());
    return load;
  }

  /** Ends when every call that is under way has ended. */
  async stop(): Promise<void> {
    this.#running = false;
    await Promise.all(this.#workers);
    await Promise.all(this.#chases);
  }

  async #warm(at: Instance): Promise<void> {
    const subjects = this.#living.flatMap((cell) => cell.subjects);
    for (let i = 0; i < subjects.length; i += BATCH) await ask(this.#target.history, at, subjects.slice(i, i + BATCH));
  }

  /** Two workers for every instance that is there; a new one gets its own. */
  async #watch(): Promise<void> {
    const served = new Set<Instance>();
    while (this.#running) {
      for (const instance of this.#target.instances) {
        if (served.has(instance)) continue;
        served.add(instance);
        for (let i = 0; i < 2; i++) this.#workers.push(this.#validate(instance));
      }
      await delay(20);
    }
  }

  async #validate(at: Instance): Promise<void> {
    while (this.#running && !at.ended) {
      await ask(this.#target.history, at, this.#sample());
      await delay(this.#options.batchRestMs);
    }
  }

  #sample(): Subject[] {
    const dead = this.ended.slice(-DEAD);
    const from = [...this.#living, ...dead];
    return Array.from({ length: BATCH }, () => {
      const { subjects } = from[Math.floor(Math.random() * from.length)]!;
      return subjects[Math.floor(Math.random() * subjects.length)]!;
    });
  }

  #refill(): void {
    while (this.#living.length < LIVING) {
      const cell = this.#target.nextCell();
      if (cell === undefined) return;
      this.#living.push(cell);
    }
  }

  async #revoke(): Promise<void> {
    const { changeRestMs } = this.#options;
    while (this.#running) {
      if (this.#target.changers().length === 0) {
        await delay(20);
        continue;
      }
      // Not the newest: what is ended must have been in the caches of all.
      const cell = this.#living.splice(Math.floor(Math.random() * 40), 1)[0];
      if (cell === undefined) return;
      this.ended.push(cell);
      this.#refill();
      await this.#end(cell);
      await delay(changeRestMs * (0.5 + Math.random()));
    }
  }

  async #end(cell: Cell): Promise<void> {
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      const [first, second] = this.#pick();
      if (first === undefined) return;
      const calls = [this.#once(cell, first)];
      // A repeat that comes while the first one still waits must not be told OK any sooner.
      if (cell.kind === "twice")
        calls.push(delay(15 + Math.random() * 100).then(() => this.#once(cell, second ?? first)));
      const done = await Promise.all(calls);
      if (done.some(({ outcome }) => outcome === "OK") || !this.#running) return;
      await delay(100);
    }
  }

  async #once(cell: Cell, at: Instance): Promise<Attempt> {
    const attempt = await end(cell, at, this.#target);
    if (attempt.outcome !== "OK") return attempt;
    this.times.push({ ms: attempt.returned! - attempt.invoked, mode: attempt.detail!, kind: cell.kind });
    for (const instance of this.#target.instances) if (!instance.ended) this.#chase(instance, cell);
    return attempt;
  }

  /** At once and a little later: what was read before the change may be stored after it. */
  #chase(at: Instance, cell: Cell): void {
    const { history } = this.#target;
    const chase = ask(history, at, cell.subjects.slice(0, 1))
      .then(() => delay(40))
      .then(() => ask(history, at, cell.subjects))
      .finally(() => this.#chases.delete(chase));
    this.#chases.add(chase);
  }

  #pick(): Instance[] {
    const able = this.#target.changers().filter((instance) => !instance.ended);
    const at = Math.floor(Math.random() * able.length);
    return [...able.slice(at), ...able.slice(0, at)];
  }
}
