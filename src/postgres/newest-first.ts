import type { PageStart, Part, Patience } from "../management/ports.ts";
import type { ListReads } from "./list-reads.ts";

/** The most rows that one statement filters without an index. Then the page ends, full or not. */
export const MOST_SCANNED = 5_000;

/** A where clause. Conditions without a value are left out; `?` in a condition stands for its value. */
export class Where {
  readonly values: unknown[];
  readonly #conditions: string[] = [];

  /** `values`: those of another clause of the same statement, which this one continues. */
  constructor(values: unknown[] = []) {
    this.values = values;
  }

  add(condition: string, value: unknown): void {
    if (value === undefined) return;
    this.#conditions.push(condition.replace("?", this.value(value)));
  }

  always(condition: string): void {
    this.#conditions.push(condition);
  }

  /** Adds a value and returns its placeholder. */
  value(value: unknown): string {
    this.values.push(value);
    return `$${this.values.length}`;
  }

  get text(): string {
    return this.#conditions.length === 0 ? "" : `where ${this.#conditions.join(" and ")}`;
  }
}

export interface Listing<R> {
  /** A table, or a subquery of few rows, which adds its values to the clause. */
  readonly table: string | ((where: Where) => string);
  /** The columns that order the table, newest first. The key separates rows of the same time. */
  readonly time: string;
  readonly key: string;
  /** The key's type. */
  readonly keyType: "text" | "bigint";
  /** Conditions that one index answers in the order of the list: equality, and bounds of time. */
  readonly narrowed: readonly (readonly [condition: string, value: unknown])[];
  /** Filters on each row `t` of the table. A filter without a value does not apply. */
  readonly filters: readonly (readonly [condition: string, value: unknown])[];
  /** The columns to read of a row `t`. */
  readonly columns: string;
  /** A second row to read for each row, with filters on it. This costs more. */
  readonly view?: {
    readonly columns: string;
    /** Reads it, as `v`, for the row `s` of the table. */
    readonly row: string;
    readonly filters: readonly (readonly [condition: string, value: unknown])[];
  };
  readonly place: (row: R) => PageStart;
}

/**
 * At most `limit` rows after `start`. No statement scans more rows than MOST_SCANNED. If they do not fill the page, it
 * ends at the last scanned row, and the next page starts there.
 */
export async function newestFirst<R extends object>(
  lists: ListReads,
  listing: Listing<R>,
  limit: number,
  start: PageStart | undefined,
  patience: Patience | undefined,
): Promise<Part<R>> {
  const { time, key, columns, view, place } = listing;
  const filters = listing.filters.filter(([, value]) => value !== undefined);
  const viewed = (view?.filters ?? []).filter(([, value]) => value !== undefined);
  const all = filters.length + viewed.length === 0;
  const end = all ? undefined : await scanEnd(lists, listing, start, patience);
  const where = narrow(listing, start);
  const table = tableOf(listing, where);
  // Rows inserted since do not lie between the two places.
  if (end !== undefined) where.always(`(${time}, ${key}) >= ${placed(where, end, listing.keyType)}`);
  const most = where.value(limit + 1);
  const conditions = (of: typeof filters) =>
    of.length === 0 ? "" : `where ${of.map(([text, value]) => text.replace("?", where.value(value))).join(" and ")}`;
  const scan = `select ${columns} from ${table} ${where.text} order by ${time} desc, ${key} desc`;
  // `offset 0` fixes the plan whatever the statistics say: read the rows of one index in its order, filter each, and look
  // up the second row one at a time.
  const found = await lists.read<R>(
    `select ${view?.columns ?? columns}
     from (select ${columns} from (${scan} ${all ? `limit ${most}` : "offset 0"}) t ${conditions(filters)} offset 0) s
       ${view === undefined ? "" : `cross join lateral (${view.row} offset 0) v`}
     ${conditions(viewed)} order by s.${time} desc, s.${key} desc limit ${most}`,
    where.values,
    patience,
  );
  if (found.length <= limit) return { rows: found, rest: end };
  const rows = found.slice(0, limit);
  return { rows, rest: place(rows[limit - 1]!) };
}

/** The last row that may be scanned; undefined if there are fewer. */
async function scanEnd<R>(
  lists: ListReads,
  listing: Listing<R>,
  start: PageStart | undefined,
  patience: Patience | undefined,
): Promise<PageStart | undefined> {
  const { time, key } = listing;
  const where = narrow(listing, start);
  const table = tableOf(listing, where);
  const [row] = await lists.read<{ time: number; key: string | number }>(
    `select ${time} as time, ${key} as key from ${table} ${where.text} order by ${time} desc, ${key} desc
     offset ${MOST_SCANNED - 1} limit 1`,
    where.values,
    patience,
  );
  return row && { time: row.time, key: String(row.key) };
}

function narrow<R>({ narrowed, time, key, keyType }: Listing<R>, start: PageStart | undefined): Where {
  const where = new Where();
  for (const [condition, value] of narrowed) where.add(condition, value);
  if (start !== undefined) where.always(`(${time}, ${key}) < ${placed(where, start, keyType)}`);
  return where;
}

function tableOf<R>({ table }: Listing<R>, where: Where): string {
  return typeof table === "string" ? table : table(where);
}

function placed(where: Where, at: PageStart, keyType: "text" | "bigint"): string {
  return `(to_timestamp(${where.value(at.time)}::float8 / 1000), ${where.value(at.key)}::${keyType})`;
}

/** The first of these with a value chooses the index; the others filter each row. */
export function driven(
  choices: readonly (readonly [condition: string, value: unknown])[],
): [driver: (readonly [string, unknown])[], others: (readonly [string, unknown])[]] {
  const given = choices.filter(([, value]) => value !== undefined);
  return [given.slice(0, 1), given.slice(1)];
}
