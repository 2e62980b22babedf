import { setTimeout as delay } from "node:timers/promises";
import { type Asker, askBy, someAskers } from "./askers.ts";
import type { Cell } from "./cells.ts";
import { type Changer, end, isToggle, raise } from "./changes.ts";
import type { ClientProgram } from "./client-program.ts";
import type { Attempt, History, Subject } from "./history.ts";
import type { Instance } from "./instance.ts";
import { mintByApi } from "./mint-by-api.ts";

/** The target of the load; read anew at each step, because instances come and go. */
export interface Target extends Changer {
  readonly history: History;
  readonly instances: readonly Instance[];
  readonly clients: readonly ClientProgram[];
  /** The instances that make changes now; the others may be cut off on purpose. None: no change is made. */
  changers(): readonly Instance[];
  /** The next live cell; undefined when the stock is used up. */
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
/** All instances, for one cell: each is asked shortly before the cell's end, and again at once. */
const ASKERS_PER_CELL = 2;
/** The longest time of an answer that a change waits for. */
const FIRST_ANSWERS_MS = 40;
const MINT_REST_MS = 60;
/** Requests to one service that checks tokens by a client library. */
const REQUESTS_AT_ONCE = 12;

/** Asks one process about a token, and hands the answer to the checker. Never rejects. */
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
  const asker = subjects.length === 1 ? "ValidateToken" : "BatchValidateTokens";
  for (const [i, verdict] of verdicts.entries()) {
    history.answered(subjects[i]!, `${at.name}#${at.pid}`, start, ended, verdict, asker);
  }
  return verdicts;
}

/** Sends a request with the token to a service that checks it, without a tenant. Never rejects. */
async function askClient(history: History, client: ClientProgram, subject: Subject): Promise<void> {
  if (subject.tenant !== undefined) return;
  const { process } = client;
  const start = performance.now();
  const verdict = await client.verdict(subject);
  if (verdict === undefined) history.unanswered();
  else history.answered(subject, process, start, performance.now(), verdict, client.name);
}

/**
 * Validators send every instance batches about live and lately ended tokens. Revokers end tokens and ask everybody at
 * once after the OK.
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

  /** Resolves under full load, with every live token in the caches of all. */
  static async start(target: Target, options: LoadOptions): Promise<Load> {
    const load = new Load(target, options);
    load.#refill();
    await Promise.all(target.instances.map((instance) => load.#warm(instance)));
    load.#workers.push(load.#watch());
    for (const client of target.clients)
      for (let i = 0; i < REQUESTS_AT_ONCE; i++) load.#workers.push(load.#request(client));
    for (let i = 0; i < options.revokers; i++) load.#workers.push(load.#revoke());
    load.#workers.push(load.#mint());
    return load;
  }

  /** Ends when every call in progress has ended. */
  async stop(): Promise<void> {
    this.#running = false;
    await Promise.all(this.#workers);
    await Promise.all(this.#chases);
  }

  async #warm(at: Instance): Promise<void> {
    const subjects = this.#living.flatMap((cell) => cell.subjects);
    for (let i = 0; i < subjects.length; i += BATCH) await ask(this.#target.history, at, subjects.slice(i, i + BATCH));
  }

  /** Two workers for every instance; a new one gets its own. */
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

  async #request(client: ClientProgram): Promise<void> {
    while (this.#running) for (const subject of this.#sample()) await askClient(this.#target.history, client, subject);
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
      // Not the newest: an ended token must have been in the caches of all.
      const cell = this.#living.splice(Math.floor(Math.random() * 40), 1)[0];
      if (cell === undefined) return;
      this.ended.push(cell);
      this.#refill();
      await this.#end(cell);
      await delay(changeRestMs * (0.5 + Math.random()));
    }
  }

  /** New ones by the calls that people use. A token is accepted everywhere once its call is OK. */
  async #mint(): Promise<void> {
    for (; this.#running; await delay(MINT_REST_MS)) {
      const [at] = this.#pick();
      const cell = at && (await mintByApi(at, this.#target));
      if (cell === undefined) continue;
      this.#living.unshift(cell);
      for (const instance of this.#target.instances) this.#soon(this.#ask(instance, cell, someAskers(1)));
    }
  }

  async #end(cell: Cell): Promise<void> {
    const askers = someAskers(ASKERS_PER_CELL);
    const first = this.#target.instances.map((instance) => this.#ask(instance, cell, askers));
    for (const answers of first) this.#soon(answers);
    await Promise.race([Promise.all(first), delay(FIRST_ANSWERS_MS)]);
    const ended = await this.#tries(cell, askers, end);
    if (!isToggle(cell.kind)) return;
    if (ended) {
      await delay(Math.random() * 60);
      if (await this.#tries(cell, askers, raise)) await delay(Math.random() * 60);
    }
    // Whatever its outcome: this one is final.
    await this.#tries({ ...cell, kind: "revoke" }, askers, end);
  }

  async #tries(cell: Cell, askers: readonly Asker[], make: typeof end): Promise<boolean> {
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      const [first, second] = this.#pick();
      if (first === undefined) return false;
      const calls = [this.#once(cell, first, askers, make)];
      // A repeat that comes while the first one still waits must not return OK any earlier.
      if (cell.kind === "twice") {
        calls.push(delay(15 + Math.random() * 100).then(() => this.#once(cell, second ?? first, askers, make)));
      }
      const done = await Promise.all(calls);
      if (done.some(({ outcome }) => outcome === "OK")) return true;
      if (!this.#running) return false;
      await delay(100);
    }
    return false;
  }

  async #once(cell: Cell, at: Instance, askers: readonly Asker[], make: typeof end): Promise<Attempt> {
    const attempt = await make(cell, at, this.#target);
    if (attempt.outcome !== "OK") return attempt;
    if (make === end)
      this.times.push({ ms: attempt.returned! - attempt.invoked, mode: attempt.detail!, kind: cell.kind });
    for (const instance of this.#target.instances) if (!instance.ended) this.#chase(instance, cell, askers);
    for (const client of this.#target.clients) this.#soon(this.#chaseClient(client, cell));
    return attempt;
  }

  /** At once and a little later: a row that was read before the change may be stored after it. */
  #chase(at: Instance, cell: Cell, askers: readonly Asker[]): void {
    const { history } = this.#target;
    const all = (subjects: readonly Subject[]) =>
      Promise.all([ask(history, at, subjects), this.#ask(at, cell, askers)]);
    this.#soon(
      all(cell.subjects.slice(0, 1))
        .then(() => delay(40))
        .then(() => all(cell.subjects)),
    );
  }

  async #chaseClient(client: ClientProgram, { subjects }: Cell): Promise<void> {
    const { history } = this.#target;
    await Promise.all(subjects.map((subject) => askClient(history, client, subject)));
    await delay(40);
    await Promise.all(subjects.map((subject) => askClient(history, client, subject)));
  }

  /** About the last of a cell's tokens: of a parent and its child, the child. */
  #ask(at: Instance, cell: Cell, askers: readonly Asker[]): Promise<unknown> {
    const { history } = this.#target;
    return Promise.all(askers.map((asker) => askBy(asker, history, at, cell.subjects.at(-1)!)));
  }

  #soon(chase: Promise<unknown>): void {
    const kept = chase.finally(() => this.#chases.delete(kept));
    this.#chases.add(kept);
  }

  #pick(): Instance[] {
    const able = this.#target.changers().filter((instance) => !instance.ended);
    const at = Math.floor(Math.random() * able.length);
    return [...able.slice(at), ...able.slice(0, at)];
  }
}
