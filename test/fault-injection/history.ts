import { appendFileSync } from "node:fs";
import { ALLOW, INSUFFICIENT_SCOPE, INVALID_TOKEN, question, UNDETERMINED, WRONG_TENANT } from "./wire.ts";

const REFUSALS: ReadonlySet<number> = new Set([INVALID_TOKEN, INSUFFICIENT_SCOPE, WRONG_TENANT]);

/** The outcome of a change of authority for its caller: done and in force, certainly not done, or unknown. */
export type Outcome = "OK" | "NOT_DONE" | "UNKNOWN";

/** One call that changes authority. Times are milliseconds of CLOCK_MONOTONIC on this host. */
export interface Attempt {
  /** The key of its audit rows: the x-request-id or, for SQL by hand, the row's target. */
  readonly id: string;
  readonly op: string;
  readonly at: string;
  readonly invoked: number;
  /** True if it gives authority back. Once it is OK, no refusal may rest on an earlier change. */
  readonly raises?: boolean;
  /** Equal for all repeats of one request. Only one of them changes anything. */
  readonly request?: string | undefined;
  returned?: number;
  outcome?: Outcome;
  /** The reason of an error, or the mode of the effect. */
  detail?: string;
  /** The time at which a raise that undid it returned. */
  lifted?: number;
}

/** The changes that no raise undoes. */
const FINAL: ReadonlySet<string> = new Set(["revoke", "oauth", "no-wait", "twice", "parent", "sql", "rotate", "cut"]);

/**
 * The longest duration of an answer that is judged by its end, which the upper bound of the database's time decides.
 */
const EARLY_MS = 1_000;

/** One token, and everything that is known about its end. */
export class Subject {
  readonly id: string;
  readonly tokenString: string;
  /** The scope that requests require, if the method can require one; undefined for no scope. */
  readonly scope: string | undefined;
  /** The tenant that requests require, if the method can require one; undefined for none. */
  readonly tenant: string | undefined;
  readonly asked: Buffer;
  readonly attempts: Attempt[] = [];
  /** No answer to a call that started after this may be ALLOW. */
  deadFrom = Number.POSITIVE_INFINITY;
  /** Per process: the end of its first refusal. */
  readonly refused = new Map<string, number>();
  /** The last one that ended: its start and its end. */
  readonly lastRefusal = { start: Number.NEGATIVE_INFINITY, end: Number.NEGATIVE_INFINITY };
  /** Raises in progress. */
  raising = 0;
  #deadBefore = Number.POSITIVE_INFINITY;
  /** The time at which the last raise returned. */
  raised = Number.NEGATIVE_INFINITY;
  /** The outcome of a raise is unknown. From there on only final changes count. */
  open = false;

  constructor(
    id: string,
    tokenString: string,
    { scope, tenant }: { scope?: string | undefined; tenant?: string | undefined } = {},
  ) {
    this.id = id;
    this.tokenString = tokenString;
    this.scope = scope;
    this.tenant = tenant;
    this.asked = question(tokenString, scope, tenant);
  }

  /** True if an attempt may be the cause of a refusal of a call with this start and end. */
  mayBeDead(start: number, end: number): boolean {
    return this.attempts.some(
      ({ invoked, outcome, raises = false, lifted = Number.POSITIVE_INFINITY }) =>
        !raises && invoked <= end && outcome !== "NOT_DONE" && start <= lifted,
    );
  }

  /** It ends by itself at that time of the monotonic clock. An inexact clock may end it a little earlier. */
  expires(at: number): void {
    this.attempts.push({ id: "", op: "expire", at: "time", invoked: at - EARLY_MS, returned: at, outcome: "OK" });
    this.deadFrom = at + 2;
  }

  /** A raise begins: from here on the token may live. */
  beginRaise(): void {
    if (this.raising++ === 0) this.#deadBefore = this.deadFrom;
    this.deadFrom = Number.POSITIVE_INFINITY;
    this.refused.clear();
  }

  endRaise({ invoked, returned, outcome }: Attempt): void {
    this.raising--;
    this.raised = returned!;
    if (outcome === "UNKNOWN") this.open = true;
    if (outcome === "NOT_DONE" && !this.open) this.deadFrom = Math.min(this.deadFrom, this.#deadBefore);
    if (outcome !== "OK") return;
    // A raise with an unknown outcome may still happen.
    for (const before of this.attempts) {
      const over = before.outcome === "OK" && before.returned! <= invoked;
      if (over && !before.raises) before.lifted ??= returned!;
    }
  }

  /** No raise can explain why a token lives again that was refused to a call which started then. */
  refusalStands(start: number): boolean {
    return this.raising === 0 && !this.open && start > this.raised;
  }
}

/** The counts of one section of the history. */
export interface Tally {
  allows: number;
  refusals: number;
  undetermined: number;
  unanswered: number;
  /** ALLOWs to calls that started after the OK. */
  afterOk: number;
  /** The smallest distance of an ALLOW's start to a later OK. Milliseconds. */
  nearest: number;
  violations: string[];
  readonly byAsker: Map<string, { allows: number; refusals: number }>;
}

export const emptyTally = (): Tally => ({
  allows: 0,
  refusals: 0,
  undetermined: 0,
  unanswered: 0,
  afterOk: 0,
  nearest: Number.POSITIVE_INFINITY,
  violations: [],
  byAsker: new Map(),
});

const MOST_VIOLATIONS = 50;

/**
 * Judges each answer when it arrives, by everything that is known then. (A) No ALLOW to a call that started after a
 * change that ends the token had returned OK. (B) Within a process, no ALLOW to a call that started after a refusal of
 * the token had ended. (C) No refusal of a token that nobody can have ended, or that a change gave back which had
 * returned OK.
 */
export class History {
  tally = emptyTally();
  readonly attempts: Attempt[] = [];
  /** While the database is emptied and filled again, tokens are missing and rightly refused. */
  #empty = { from: Number.POSITIVE_INFINITY, to: Number.POSITIVE_INFINITY };
  readonly #file: string | undefined;
  #lines: string[] = [];

  /** If there is a file, writes every answer and every change to it, a JSON line each. */
  constructor(file?: string) {
    this.#file = file;
  }

  answered(subject: Subject, process: string, start: number, end: number, verdict: number, asker: string): void {
    this.#write({
      op: "validate",
      token: subject.id,
      at: process,
      by: asker,
      t_invoke: start,
      t_return: end,
      outcome: verdict,
    });
    const { tally } = this;
    if (verdict === UNDETERMINED) tally.undetermined++;
    else if (verdict === ALLOW) this.#allowed(subject, process, start, asker);
    else if (REFUSALS.has(verdict)) {
      tally.refusals++;
      this.#of(asker).refusals++;
      if (end >= this.#empty.from && start <= this.#empty.to) return;
      if (end > subject.lastRefusal.end) Object.assign(subject.lastRefusal, { start, end });
      if (!subject.mayBeDead(start, end))
        this.violation("C", subject, `${process} refused it to ${asker} (${verdict})`);
      if (verdict === INVALID_TOKEN && !subject.refused.has(process) && subject.refusalStands(start)) {
        subject.refused.set(process, end);
      }
    } else this.violation("C", subject, `${process} answered ${asker} ${verdict}`);
  }

  #allowed(subject: Subject, process: string, start: number, asker: string): void {
    const { tally } = this;
    tally.allows++;
    this.#of(asker).allows++;
    const who = `${process} said ALLOW to ${asker}`;
    const late = start - subject.deadFrom;
    if (late > 0) {
      tally.afterOk++;
      this.violation("A", subject, `${who}, to a call that started ${late.toFixed(1)} ms after the OK`);
    } else tally.nearest = Math.min(tally.nearest, -late);
    const refused = subject.refused.get(process);
    if (refused !== undefined && start > refused) {
      this.violation("B", subject, `${who} ${(start - refused).toFixed(1)} ms after a refusal`);
    }
  }

  #of(asker: string): { allows: number; refusals: number } {
    const { byAsker } = this.tally;
    let counts = byAsker.get(asker);
    if (counts === undefined) byAsker.set(asker, (counts = { allows: 0, refusals: 0 }));
    return counts;
  }

  unanswered(): void {
    this.tally.unanswered++;
  }

  begin(subjects: readonly Subject[], attempt: Attempt): void {
    this.attempts.push(attempt);
    for (const subject of subjects) {
      subject.attempts.push(attempt);
      if (attempt.raises) subject.beginRaise();
    }
  }

  /** `forceAfterMs`: the time until it is in force, if the call did not wait. */
  end(subjects: readonly Subject[], attempt: Attempt, outcome: Outcome, detail: string, forceAfterMs = 0): void {
    const { op, at, invoked } = attempt;
    const returned = performance.now();
    Object.assign(attempt, { returned, outcome, detail });
    for (const subject of subjects) {
      this.#write({ op, token: subject.id, at, t_invoke: invoked, t_return: returned, outcome, detail });
      if (attempt.raises) subject.endRaise(attempt);
      else if (outcome === "OK") {
        if (subject.open && !FINAL.has(op)) continue;
        subject.deadFrom = Math.min(subject.deadFrom, returned + forceAfterMs);
      } else if (outcome === "NOT_DONE") this.#judgeRefusals(subject, attempt);
    }
  }

  /** Refusals during an attempt that was not done. They counted as its effect. */
  #judgeRefusals(subject: Subject, { id, invoked, detail }: Attempt): void {
    const { start, end } = subject.lastRefusal;
    if (end < invoked || subject.mayBeDead(start, end)) return;
    this.violation("C", subject, `refused, though ${id} came back with ${detail}`);
  }

  /** Runs `work`, which empties the database and fills it again. In between there are no tokens. */
  async emptied<T>(work: () => Promise<T>): Promise<T> {
    this.#empty = { from: performance.now(), to: Number.POSITIVE_INFINITY };
    return work().finally(() => (this.#empty.to = performance.now()));
  }

  /** The database loses the changes that ended them, with their audit rows. The program redoes them: they stay ended. */
  lost(subjects: readonly Subject[]): void {
    for (const { attempts } of subjects) {
      for (const attempt of attempts) {
        const at = this.attempts.indexOf(attempt);
        if (at >= 0) this.attempts.splice(at, 1);
      }
    }
  }

  violation(kind: string, subject: Subject | undefined, text: string): void {
    const { violations } = this.tally;
    if (violations.length >= MOST_VIOLATIONS) return;
    const past = (subject?.attempts ?? []).map(
      ({ op, at, invoked, returned, outcome, detail }) =>
        `${op}@${at} ${invoked.toFixed(0)}–${returned?.toFixed(0) ?? "…"} ${outcome ?? ""} ${detail ?? ""}`,
    );
    violations.push(`(${kind}) ${subject?.id ?? ""} ${text} [${past.join("; ")}]`);
  }

  /** Begins another section. The knowledge about tokens stays. */
  turn(): Tally {
    const { tally } = this;
    this.tally = emptyTally();
    this.flush();
    return tally;
  }

  flush(): void {
    if (this.#file !== undefined && this.#lines.length > 0) appendFileSync(this.#file, this.#lines.join(""));
    this.#lines = [];
  }

  #write(line: object): void {
    if (this.#file === undefined) return;
    this.#lines.push(`${JSON.stringify(line)}\n`);
    if (this.#lines.length >= 10_000) this.flush();
  }
}
