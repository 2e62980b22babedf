import { decide, type Requirement, type Verdict } from "../../src/domain/decide.ts";
import { DB_EPOCH_MS, type ModelDatabase } from "./model-database.ts";

export interface Question {
  readonly process: string;
  readonly digest: string;
  readonly requirement: Requirement;
  readonly start: number;
  /** The answer must show at least this version: the latest one among the changes that have returned. */
  readonly vouched: number;
  /** And at least this one: the version of an earlier refusal by the same process. */
  readonly refused: number;
}

/**
 * The tolerance of a refusal near a limit of time, in milliseconds: the bounds of database time are as wide as the poll
 * that gave them took, and a process that paused may use a poll as old as its lease.
 */
const EARLY = 1700;

/**
 * Judges answers against everything that the database ever showed. An answer is right if it is true for a state that
 * was visible between the required version and the answer, at a time close to the call. (A) No answer by a state older
 * than a change that had returned before the call started. (B) Within a process, no ALLOW by a state older than a
 * refusal that had ended before the call started. (C) No refusal that no state explains.
 */
export class Checker {
  readonly violations: string[] = [];
  /** The version that calls must show at least if they start now. */
  vouched = 0;
  readonly #db: ModelDatabase;
  readonly #refused = new Map<string, number>();
  readonly #driftMs: number;

  /** `driftMs`: the largest shift of an ALLOW's time limits within one lease, by clocks of different rates. */
  constructor(db: ModelDatabase, driftMs: number) {
    this.#db = db;
    this.#driftMs = driftMs;
  }

  ask(process: string, digest: string, requirement: Requirement, now: number): Question {
    const refused = this.#refused.get(process + digest) ?? 0;
    return { process, digest, requirement, start: now, vouched: this.vouched, refused };
  }

  /**
   * A change of authority returned OK, or its announced time has come: everything up to `version` is in force
   * everywhere.
   */
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
      // The version that was visible when the call ended. A later one could not be known.
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
