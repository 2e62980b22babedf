import { decide, type Requirement, type Verdict } from "../../src/domain/decide.ts";
import { DB_EPOCH_MS, type ModelDatabase } from "./model-database.ts";

export interface Question {
  readonly process: string;
  readonly digest: string;
  readonly requirement: Requirement;
  readonly start: number;
  /** The answer must show at least this version: the latest that a returned change of authority vouches for. */
  readonly vouched: number;
  /** And this one: what an earlier refusal by the same process rested on at least. */
  readonly refused: number;
}

/**
 * How far a refusal may lie off a limit of time: the bounds of database time are as wide as the poll that gave them was
 * long, and a process that stood still may take up a poll as old as its lease. Milliseconds.
 */
const EARLY = 1700;

/**
 * Judges answers against all that the database ever said. An answer is right if it is the true one for a state that was
 * visible between what is vouched for and the answer, at a time close to the call:
 * (A) no answer by a state older than a change that had returned before the call started;
 * (B) within a process, no ALLOW by a state older than a refusal that had ended before the call started;
 * (C) no refusal that no state explains.
 */
export class Checker {
  readonly violations: string[] = [];
  /** What calls that start now must show at least. */
  vouched = 0;
  readonly #db: ModelDatabase;
  readonly #refused = new Map<string, number>();
  readonly #driftMs: number;

  /** `driftMs`: by how much clocks that do not run alike may shift the limits of an ALLOW within one lease. */
  constructor(db: ModelDatabase, driftMs: number) {
    this.#db = db;
    this.#driftMs = driftMs;
  }

  ask(process: string, digest: string, requirement: Requirement, now: number): Question {
    const refused = this.#refused.get(process + digest) ?? 0;
    return { process, digest, requirement, start: now, vouched: this.vouched, refused };
  }

  /** A change of authority returned OK (or its announced time has come): all of `version` is in force everywhere. */
  vouch(version: number): void {
    this.vouched = Math.max(this.vouched, version);
  }

  answered(question: Question, verdict: Verdict, now: number, facts: string): void {
    if (verdict === "UNDETERMINED") return;
    const last = this.#db.versions.length - 1;
    const all = this.#explaining(question, verdict, now, 0, last);
    const right = all.filter((version) => version >= question.vouched);
    const key = question.process + question.digest;
    if (right.length === 0) {
      const kind = verdict !== "ALLOW" && all.length === 0 ? "C" : "A";
      this.#violation(kind, question, verdict, now, facts);
    } else if (verdict === "ALLOW" && !right.some((version) => version >= question.refused)) {
      this.#violation("B", question, verdict, now, facts);
    } else if (verdict === "INVALID_TOKEN") {
      this.#refused.set(key, Math.max(this.#refused.get(key) ?? 0, right[0]!));
    }
  }

  #explaining(question: Question, verdict: Verdict, now: number, from: number, to: number): number[] {
    const { start, digest, requirement } = question;
    const refusal = verdict === "INVALID_TOKEN";
    const low = DB_EPOCH_MS + start - (refusal ? EARLY : this.#driftMs);
    const high = DB_EPOCH_MS + now + (refusal ? EARLY : this.#driftMs);
    const found: number[] = [];
    for (let version = from; version <= to; version++) {
      // Visible when the call ended: it is; a later one could not be known.
      const snapshot = this.#db.versions[version]!.rows.get(digest)!;
      const edges = [snapshot.expire, snapshot.notBefore].flatMap((edge) =>
        edge === undefined ? [] : [edge, edge - 0.01],
      );
      const times = [low, high, ...edges.filter((time) => time > low && time < high)];
      const explains = (time: number) =>
        decide(snapshot, requirement, { clientAddress: "" }, { lower: time, upper: time }).verdict === verdict;
      if (times.some(explains)) found.push(version);
    }
    return found;
  }

  #violation(kind: string, question: Question, verdict: Verdict, now: number, facts: string): void {
    const { process, start, vouched, refused } = question;
    this.violations.push(
      `(${kind}) ${process} answered ${verdict} from ${start.toFixed(1)} to ${now.toFixed(1)}; ` +
        `vouched ${vouched}, refused ${refused}; ${facts}`,
    );
  }
}
