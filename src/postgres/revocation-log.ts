import { createHash, randomBytes } from "node:crypto";
import { AppError } from "../domain/errors.ts";
import type { Evidence } from "../domain/evidence.ts";
import { Mac } from "../domain/mac.ts";
import type {
  LogRecord,
  PollResult,
  Redone,
  RevocationLog,
  Unacknowledged,
  ValidatorRow,
} from "../revocation/ports.ts";
import type { Trouble } from "../telemetry/events.ts";
import { DirectConnection, type Statement } from "./direct-connection.ts";
import { type EvidenceRow, evidenceOf, isProven } from "./evidence.ts";
import * as sql from "./revocation-sql.ts";

export interface RevocationLogOptions {
  /** Leads to the primary itself, not through a pooler. */
  readonly url: string;
  /** 2: a slow poll does not delay waiting changes of authority. 1 for a process that makes none. */
  readonly connections: 1 | 2;
  /** The facts of this process that ListInstances shows. */
  readonly about?: { readonly mode: string; readonly version: string };
  /** Makes the secrets of the rows; by default, this process alone has them. */
  readonly rowKey?: Uint8Array | undefined;
  /** A connection failed; called with an error that holds no secret. */
  readonly onTrouble: (name: Trouble, error: unknown) => void;
}

/** A registration may take longer than a poll: nothing is cached without it, and a failed one starts again. */
const REGISTER_MS = 2000;
/** So may what an unproven epoch needs, such as its first, longest page: nothing is allowed before. Milliseconds. */
const GUARD_MS = 2000;
/** The time for one round of pruning. The next round continues. Milliseconds. */
const PRUNE_MS = 400;

type StateRow = EvidenceRow & {
  readonly max_bound_ms: number;
  readonly names: string;
  readonly settled: string | null;
};
type PollRow = StateRow & {
  readonly floor_n: number;
  readonly live: boolean;
  readonly proven: string | null;
  readonly pending: boolean;
  readonly regressed: boolean;
  readonly ns: (string | number)[];
  readonly keys: Buffer[];
  readonly ats: (string | number)[];
  readonly kinds: LogRecord["kind"][];
  readonly changes: (string | null)[];
};
type MissingRow = StateRow & {
  readonly validators: number;
  readonly missing: [id: string, bound: number, reaped: boolean, applied: number, held: boolean][];
};
type ValidatorsRow = StateRow & { readonly rows: [id: string, bound: number, reaped: boolean, silent: number][] };

/**
 * The log and the registry over direct connections. The first polls, listens, registers and acknowledges. The second, if
 * there is one, serves waiting changes and housekeeping. Each call is one statement, and each answer shows its epoch. An
 * answer of an unexpected epoch costs its connection and wakes the poll. Only the poll starts a new epoch.
 */
export class PostgresRevocationLog implements RevocationLog {
  readonly #options: RevocationLogOptions;
  readonly #polls: DirectConnection;
  readonly #waits: DirectConnection;
  readonly #listeners: (() => void)[] = [];
  /** Makes the secret of a row from its id. The secret proves that the row belongs to this process, or to its workers. */
  readonly #mac: Mac;

  constructor(options: RevocationLogOptions) {
    this.#options = options;
    this.#mac = new Mac(options.rowKey ?? randomBytes(32));
    const wake = () => this.#wake();
    this.#polls = this.#connection("sallyport-poll", { channel: "sallyport_rev", onNotification: wake });
    this.#waits = options.connections === 1 ? this.#polls : this.#connection("sallyport-wait", {});
  }

  async readEpoch(): Promise<Evidence & { maxBoundMs: number; names: string }> {
    const row = await one<StateRow>(this.#polls, sql.READ_EPOCH, []);
    return { ...evidenceOf(row), maxBoundMs: row.max_bound_ms, names: row.names };
  }

  async poll(me: string, epoch: string, applied: number): Promise<PollResult> {
    const row = await one<PollRow>(this.#polls, sql.POLL, [me, epoch, applied], applied < 0 ? GUARD_MS : undefined);
    return {
      ...evidenceOf(row),
      ownRowLive: row.live,
      floorN: row.floor_n,
      maxBoundMs: row.max_bound_ms,
      names: row.names,
      settled: row.settled ?? undefined,
      proven: isProven(row),
      pending: row.pending,
      regressed: row.regressed,
      rows: row.ns.map((n, i) => ({
        position: Number(n),
        key: row.keys[i]!.toString("latin1"),
        at: Number(row.ats[i]),
        kind: row.kinds[i]!,
        change: row.changes[i] ?? undefined,
      })),
      full: row.ns.length === sql.PAGE,
    };
  }

  async register(entry: Parameters<RevocationLog["register"]>[0]): Promise<boolean> {
    const { old, mark, me, epoch, boundMs, readerVersion, kids } = entry;
    const hash = createHash("sha256").update(this.#secretOf(me)).digest();
    const before = old === undefined ? [null, null] : this.#own(old);
    const { mode, version } = this.#options.about ?? { mode: "", version: "" };
    const values = [...before, me, hash, epoch, boundMs, readerVersion, kids, this.#secretOf(me), mode, version];
    // In any epoch: the next poll shows which.
    const statement = mark ? sql.REPLACE : sql.REGISTER;
    const row = await one<EvidenceRow & { done: boolean }>(this.#polls, statement, values, REGISTER_MS);
    return row.done;
  }

  async ack(me: string, epoch: string, applied: number, clients?: number): Promise<void> {
    const values = [...this.#own(me), epoch, applied];
    if (clients === undefined) await this.#must(this.#polls, epoch, sql.ACK, values);
    else await this.#must(this.#polls, epoch, sql.HOLD, [...values, clients]);
  }

  async deregister(me: string): Promise<void> {
    await one(this.#polls, sql.DEREGISTER, this.#own(me));
  }

  async unacknowledged(epoch: string, position: number | undefined): Promise<Unacknowledged> {
    const row = await this.#reported(one<MissingRow>(this.#waits, sql.MISSING, [epoch, position ?? null]));
    this.#check(this.#waits, epoch, row);
    return {
      ...evidenceOf(row),
      settled: row.settled ?? undefined,
      maxBoundMs: row.max_bound_ms,
      validators: row.validators,
      missing: row.missing.map(([id, boundMs, reaped, appliedN, held]) => ({ id, boundMs, reaped, appliedN, held })),
    };
  }

  async validators(): Promise<Evidence & { settled: string | undefined; rows: readonly ValidatorRow[] }> {
    const row = await one<ValidatorsRow>(this.#waits, sql.VALIDATORS, []);
    const rows = row.rows.map(([id, boundMs, reaped, silentMs]) => ({ id, boundMs, reaped, silentMs }));
    return { ...evidenceOf(row), settled: row.settled ?? undefined, rows };
  }

  async reap(ids: readonly string[]): Promise<void> {
    await this.#reported(one(this.#waits, sql.REAP, [ids]));
  }

  async deleteReaped(ids: readonly string[], epoch: string): Promise<void> {
    await this.#must(this.#waits, epoch, sql.DELETE_REAPED, [ids, epoch]);
  }

  async markSettled(epoch: string, names: string): Promise<void> {
    await this.#must(this.#waits, epoch, sql.MARK_SETTLED, [epoch, names]);
  }

  async reportLost(epoch: string, records: readonly LogRecord[]): Promise<void> {
    for (const some of portions(records)) {
      await this.#must(
        this.#polls,
        epoch,
        sql.LOST_REPORT,
        [
          epoch,
          some.map(({ position }) => position),
          some.map(({ key }) => Buffer.from(key, "latin1")),
          some.map(({ at }) => at),
          some.map(({ kind }) => kind),
          some.map(({ change }) => change ?? null),
        ],
        GUARD_MS,
      );
    }
  }

  async redoLost(epoch: string): Promise<Redone | "busy" | undefined> {
    const done = await this.#must<string | null>(this.#waits, epoch, sql.LOST_REDO, [epoch], GUARD_MS);
    if (done === null || done === "busy") return done ?? undefined;
    const [state, late] = done.split(" ");
    return { state: state as Redone["state"], late: late !== undefined };
  }

  async prove(epoch: string, waited: boolean): Promise<boolean> {
    return this.#must<boolean>(this.#polls, epoch, sql.PROVE, [epoch, waited]);
  }

  async draw(epoch: string): Promise<void> {
    await one(this.#polls, sql.DRAW, [epoch]);
  }

  /**
   * Also prunes the temporary rows of minting and of the canary, and makes the audit's months ahead, because this task
   * runs once a minute in one process.
   */
  async prune(): Promise<{ readonly auditMonths: number } | undefined> {
    // On a connection of its own: the leader's lock ends with it, and deleting delays no other statement.
    const connection = this.#connection("sallyport-prune", {});
    let over = false;
    const timer = setTimeout(() => (over = true), PRUNE_MS);
    const last = setTimeout(() => connection.drop(), PRUNE_MS + 100);
    try {
      const { got } = await one<{ got: boolean }>(connection, sql.LEAD, []);
      if (!got) return undefined;
      // Committed when it returns, so the floor covers every row that is deleted later.
      await one(connection, sql.RAISE_FLOOR, []);
      for (let deleted = sql.BATCH; deleted === sql.BATCH && !over; ) {
        deleted = (await one<{ done: number }>(connection, sql.PRUNE, [])).done;
      }
      await one(connection, sql.FORGET_REQUESTS, []);
      await one(connection, sql.FORGET_COUNTS, []);
      await one(connection, sql.FORGET_EXCHANGES, []);
      // Another process may lead from here: this deletion waits for synchronous standbys, and one may be frozen.
      await one(connection, sql.RESIGN, []);
      const { done: auditMonths } = await one<{ done: number }>(connection, sql.AUDIT_MONTHS, []);
      for (let deleted = sql.CANARY_BATCH; deleted >= sql.CANARY_BATCH && !over; ) {
        deleted = (await one<{ done: number }>(connection, sql.FORGET_CANARY, [])).done;
      }
      return { auditMonths };
    } finally {
      clearTimeout(timer);
      clearTimeout(last);
      await connection.close();
    }
  }

  reconnect(): void {
    this.#polls.drop();
    this.#waits.drop();
  }

  onWakeUp(listener: () => void): void {
    this.#listeners.push(listener);
  }

  async close(): Promise<void> {
    await Promise.all([this.#polls.close(), this.#waits.close()]);
  }

  #own(id: string): [id: string, secret: Buffer] {
    return [id, this.#secretOf(id)];
  }

  #secretOf(id: string): Buffer {
    return this.#mac.fields("validator", id);
  }

  #connection(applicationName: string, listen: { channel?: string; onNotification?: () => void }): DirectConnection {
    const { url, onTrouble } = this.#options;
    const onLost = (error: Error) => {
      onTrouble("database_connection_lost", error);
      // No NOTIFY arrives until it is open again.
      if (listen.channel !== undefined) this.#wake();
    };
    return new DirectConnection({ url, applicationName, ...listen, onLost });
  }

  #wake(): void {
    for (const listener of this.#listeners) listener();
  }

  /** True if the statement ran in that epoch. If not, its connection is dropped. */
  #check(connection: DirectConnection, epoch: string, row: EvidenceRow): boolean {
    if (row.epoch === epoch && !row.in_recovery) return true;
    connection.drop();
    this.#wake();
    return false;
  }

  /** Returns the result of the statement's function. */
  async #must<T>(
    connection: DirectConnection,
    epoch: string,
    statement: Statement,
    values: unknown[],
    boundMs?: number,
  ): Promise<T> {
    const row = await one<EvidenceRow & { done: T }>(connection, statement, values, boundMs);
    if (this.#check(connection, epoch, row)) return row.done;
    throw new AppError("STORE_UNAVAILABLE", "another life of the database answered", { retryAfterMs: 1000 });
  }

  /** Reports a failure: changes that wait then go by time, and their answers do not show why. */
  async #reported<T>(answer: Promise<T>): Promise<T> {
    return answer.catch((error) => {
      this.#options.onTrouble("registry_read_failed", error);
      throw error;
    });
  }
}

/** The records in portions that one statement takes, in count and in bytes. */
function* portions(records: readonly LogRecord[]): Generator<LogRecord[]> {
  let some: LogRecord[] = [];
  let bytes = 0;
  for (const record of records) {
    const size = Buffer.byteLength(record.change ?? "");
    if (some.length === sql.REPORT || (some.length > 0 && bytes + size > sql.REPORT_BYTES)) {
      yield some;
      [some, bytes] = [[], 0];
    }
    some.push(record);
    bytes += size;
  }
  if (some.length > 0) yield some;
}

async function one<R extends object>(
  connection: DirectConnection,
  statement: Statement,
  values: unknown[],
  boundMs?: number,
) {
  const [row] = await connection.run<R>(statement, values, boundMs);
  if (row === undefined) throw new AppError("STORE_UNAVAILABLE", "the head row is missing", { retryAfterMs: 1000 });
  return row;
}
