import type { InstanceRow, Patience, Registry } from "../management/ports.ts";
import type { EvidenceRow } from "./evidence.ts";
import type { ListReads } from "./list-reads.ts";
import { FROM, STATE } from "./revocation-sql.ts";

interface Row extends EvidenceRow {
  readonly settled: string | null;
  readonly rows: Fields[];
}

type Fields = [
  id: string,
  mode: string,
  version: string,
  reaped: boolean,
  epoch: string,
  applied: number,
  seen: number,
];

const INSTANCES = `
select ${STATE}, coalesce((
  select json_agg(json_build_array(v.id, v.mode, v.version, v.reaped_at is not null, v.epoch, v.applied_n,
    (extract(epoch from v.seen) * 1000)::float8) order by v.seen desc)
  from (select id, mode, version, reaped_at, epoch, applied_n, seen from sallyport.validators
    order by seen desc limit $1) v
), '[]') as rows
from ${FROM}`;

/** The registry of instances, read like a list. */
export class PostgresRegistry implements Registry {
  readonly #lists: ListReads;

  constructor(lists: ListReads) {
    this.#lists = lists;
  }

  async instances(limit: number, patience?: Patience) {
    const [row] = await this.#lists.read<Row>(INSTANCES, [limit], patience);
    const { epoch, head_n: position, settled, rows } = row!;
    return { position, settled: settled === epoch, rows: rows.map((one) => instanceOf(epoch, one)) };
  }
}

function instanceOf(epoch: string, [id, mode, version, reaped, of, applied, seen]: Fields): InstanceRow {
  return { id, mode, version, reaped, appliedN: of === epoch ? applied : -1, seen };
}
