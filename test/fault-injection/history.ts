import { appendFileSync } from "node:fs";
import { ALLOW, INSUFFICIENT_SCOPE, INVALID_TOKEN, question, UNDETERMINED } from "./wire.ts";

/** How a change of authority ended, as its caller knows: done and in force, surely not done, or neither. */
export type Outcome = "OK" | "NOT_DONE" | "UNKNOWN";

/** One call that changes authority. Times are milliseconds of CLOCK_MONOTONIC on this host. */
export interface Attempt {
  /** What tells its audit rows from all others: sent as x-request-id, or of SQL by hand what the row is about. */
  readonly id: string;
  readonly op: string;
  readonly at: string;
  readonly invoked: number;
  /** It gives authority back: once it is OK, nobody may refuse for what was done before it. */
  readonly raises?: boolean;
  /** The same for all repeats of one request: only one of them changes anything. */
  readonly request?: string | undefined;
  returned?: number;
  outcome?: Outcome;
  /** The reason of an error, or the mode of the effect. */
  detail?: string;
  /** When a raise that undid it returned. */
  lifted?: number;
}

/** What no raise undoes. */
const FINAL: ReadonlySet<string> = new Set(["revoke", "oauth", "no-wait", "twice", "parent", "sql", "rotate", "cut"]);

/** What an answer may take that is judged by its end: the upper bound of the database's time says when that is. */
const EARLY_MS = 1_000;

/** One token, and all that is known of its end. */
export class Subject {
  readonly id: string;
  readonly tokenString: string;
  /** What those ask for who can; undefined: no scope. */
  readonly scope: string | undefined;
  readonly asked: Buffer;
  readonly attempts: Attempt[] = [];
  /** No answer to a call that started after this may be ALLOW. */
  deadFrom = Number.POSITIVE_INFINITY;
  /** Per process: the end of its first refusal. */
  readonly refused = new Map<string, number>();
  /** The last one that ended: when it started, and when it ended. */
  readonly lastRefusal = { start: Number.NEGATIVE_INFINITY, end: Number.NEGATIVE_INFINITY };
  /** Raises that are under way. */
  raising = 0;
  #deadBefore = Number.POSITIVE_INFINITY;
  /** When the last raise returned. */
  raised = Number.NEGATIVE_INFINITY;
  /** Nobody knows of a raise whether it was done, or when it will be: only what is final counts from there. */
  open = false;

  constructor(id: string, tokenString: string, scope?: string) {
    this.id = id;
    this.tokenString = tokenString;
    this.scope = scope;
    this.asked = question(tokenString, scope);
  }

  /** Whether some attempt may be why a call that started and ended then was refused. */
  mayBeDead(start: number, end: number): boolean {
    return this.attempts.some(
      ({ invoked, outcome, raises = false, lifted = Number.POSITIVE_INFINITY }) =>
        !raises && invoked <= end && outcome !== "NOT_DONE" && start <= lifted,
    );
  }

  /** It ends by itself at that time of the monotonic clock; a clock that is not exact may say so a little sooner. */
  expires(at: number): void {
    this.attempts.push({ id: "", op: "expire", at: "time", invoked: at - EARLY_MS, returned: at, outcome: "OK" });
    this.deadFrom = at + 2;
  }

  /** A raise begins: from here on it may live. */
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
    // One whose outcome nobody knows may still be done.
    for (const before of this.attempts) {
      const over = before.outcome === "OK" && before.returned! <= invoked;
      if (over && !before.raises) before.lifted ??= returned!;
    }
  }

  /** No raise can be why a token lives again that was refused to a call which started then. */
  refusalStands(start: number): boolean {
    return this.raising === 0 && !this.open && start > this.raised;
  }
}

/** What a stretch of history came to. */
export interface Tally {
  allows: number;
  refusals: number;
  undetermined: number;
  unanswered: number;
  /** ALLOWs to calls that started after the OK. */
  afterOk: number;
  /** The nearest that an ALLOW's start came to the OK, from below. Milliseconds. */
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
 * Judges each answer when it comes, against all that is known by then:
 * (A) no ALLOW to a call that started after a change which ends the token had returned OK;
 * (B) within a process, no ALLOW to a call that started after a refusal of the token had ended;
 * (C) no refusal of a token that nobody can have ended, or that was given back by a change that had returned OK.
 */
export class History {
  tally = emptyTally();
  readonly attempts: Attempt[] = [];
  /** While somebody empties the database and fills it again: what is not there then is rightly refused. */
  #empty = { from: Number.POSITIVE_INFINITY, to: Number.POSITIVE_INFINITY };
  readonly #file: string | undefined;
  #lines: string[] = [];

  /** With a file, every answer and every change is written there, a JSON line each. */
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
    else if (verdict === INVALID_TOKEN || verdict === INSUFFICIENT_SCOPE) {
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

  /** `forceAfterMs`: where nobody waited, so long until it is in force. */
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

  /** Of those during an attempt that was not done: they were believed to be its doing. */
  #judgeRefusals(subject: Subject, { id, invoked, detail }: Attempt): void {
    const { start, end } = subject.lastRefusal;
    if (end < invoked || subject.mayBeDead(start, end)) return;
    this.violation("C", subject, `refused, though ${id} came back with ${detail}`);
  }

  /** Does what empties the database and fills it again; in between there are no tokens. */
  async emptied<T>(work: () => Promise<T>): Promise<T> {
    this.#empty = { from: performance.now(), to: Number.POSITIVE_INFINITY };
    return work().finally(() => (this.#empty.to = performance.now()));
  }

  /** The database forgot what ended them: they live, as far as it knows. */
  lost(subjects: readonly Subject[]): void {
    for (const subject of subjects) {
      for (const attempt of subject.attempts.splice(0)) this.attempts.splice(this.attempts.indexOf(attempt), 1);
      subject.refused.clear();
      subject.deadFrom = Number.POSITIVE_INFINITY;
      subject.lastRefusal.end = Number.NEGATIVE_INFINITY;
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

  /** Begins another stretch; what is known of tokens stays. */
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
