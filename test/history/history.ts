import { appendFileSync } from "node:fs";
import { ALLOW, INSUFFICIENT_SCOPE, INVALID_TOKEN, UNDETERMINED } from "./wire.ts";

/** How a change of authority ended, as its caller knows: done and in force, surely not done, or neither. */
export type Outcome = "OK" | "NOT_DONE" | "UNKNOWN";

/** One call that changes authority. Times are milliseconds of CLOCK_MONOTONIC on this host. */
export interface Attempt {
  /** What tells its audit rows from all others: sent as x-request-id, or of SQL by hand what the row is about. */
  readonly id: string;
  readonly op: string;
  readonly at: string;
  readonly invoked: number;
  returned?: number;
  outcome?: Outcome;
  /** The reason of an error, or the mode of the effect. */
  detail?: string;
}

/** One token, and all that is known of its end. */
export class Subject {
  readonly id: string;
  readonly asked: Buffer;
  readonly attempts: Attempt[] = [];
  /** No answer to a call that started after this may be ALLOW. */
  deadFrom = Number.POSITIVE_INFINITY;
  /** Per process: the end of its first refusal. */
  readonly refused = new Map<string, number>();
  lastRefusal = Number.NEGATIVE_INFINITY;

  constructor(id: string, asked: Buffer) {
    this.id = id;
    this.asked = asked;
  }

  /** Whether some attempt may have done it by then. */
  mayBeDead(by: number): boolean {
    return this.attempts.some(({ invoked, outcome }) => invoked <= by && outcome !== "NOT_DONE");
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
}

export const emptyTally = (): Tally => ({
  allows: 0,
  refusals: 0,
  undetermined: 0,
  unanswered: 0,
  afterOk: 0,
  nearest: Number.POSITIVE_INFINITY,
  violations: [],
});

const MOST_VIOLATIONS = 50;

/**
 * Judges each answer when it comes, against all that is known by then:
 * (A) no ALLOW to a call that started after a change which ends the token had returned OK;
 * (B) within a process, no ALLOW to a call that started after a refusal of the token had ended;
 * (C) no refusal of a token that nobody can have ended.
 */
export class History {
  tally = emptyTally();
  readonly attempts: Attempt[] = [];
  readonly #file: string | undefined;
  #lines: string[] = [];

  /** With a file, every answer and every change is written there, a JSON line each. */
  constructor(file?: string) {
    this.#file = file;
  }

  answered(subject: Subject, process: string, start: number, end: number, verdict: number): void {
    this.#write({ op: "validate", token: subject.id, at: process, t_invoke: start, t_return: end, outcome: verdict });
    const { tally } = this;
    if (verdict === UNDETERMINED) tally.undetermined++;
    else if (verdict === ALLOW) {
      tally.allows++;
      const late = start - subject.deadFrom;
      if (late > 0) {
        tally.afterOk++;
        this.violation("A", subject, `${process} said ALLOW to a call that started ${late.toFixed(1)} ms after the OK`);
      } else tally.nearest = Math.min(tally.nearest, -late);
      const refused = subject.refused.get(process);
      if (refused !== undefined && start > refused) {
        this.violation("B", subject, `${process} said ALLOW ${(start - refused).toFixed(1)} ms after a refusal`);
      }
    } else if (verdict === INVALID_TOKEN || verdict === INSUFFICIENT_SCOPE) {
      tally.refusals++;
      subject.lastRefusal = Math.max(subject.lastRefusal, end);
      if (!subject.mayBeDead(end)) this.violation("C", subject, `${process} refused it (${verdict})`);
      if (verdict === INVALID_TOKEN && !subject.refused.has(process)) subject.refused.set(process, end);
    } else this.violation("C", subject, `${process} answered ${verdict}`);
  }

  unanswered(): void {
    this.tally.unanswered++;
  }

  begin(subjects: readonly Subject[], attempt: Attempt): void {
    this.attempts.push(attempt);
    for (const subject of subjects) subject.attempts.push(attempt);
  }

  /** `forceAfterMs`: for SQL by hand, which waits for nothing. */
  end(subjects: readonly Subject[], attempt: Attempt, outcome: Outcome, detail: string, forceAfterMs = 0): void {
    const { op, at, invoked } = attempt;
    const returned = performance.now();
    Object.assign(attempt, { returned, outcome, detail });
    for (const subject of subjects) {
      this.#write({ op, token: subject.id, at, t_invoke: invoked, t_return: returned, outcome, detail });
      if (outcome === "OK") subject.deadFrom = Math.min(subject.deadFrom, returned + forceAfterMs);
      // In the meantime a refusal was believed to be its doing.
      else if (outcome === "NOT_DONE" && subject.lastRefusal >= invoked && !subject.mayBeDead(returned)) {
        this.violation("C", subject, `refused, though ${attempt.id} came back with ${detail}`);
      }
    }
  }

  /** The database forgot what ended them: they live, as far as it knows. */
  lost(subjects: readonly Subject[]): void {
    for (const subject of subjects) {
      for (const attempt of subject.attempts.splice(0)) this.attempts.splice(this.attempts.indexOf(attempt), 1);
      subject.refused.clear();
      subject.deadFrom = Number.POSITIVE_INFINITY;
      subject.lastRefusal = Number.NEGATIVE_INFINITY;
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
