import type { Postgres } from "./pool.ts";

/** The tokens that rest on a key, and the instances that know it. */
export interface KeyUse {
  /** Tokens that could be accepted, now or later. */
  readonly live: number;
  /** The end of the last one, in milliseconds since 1970; undefined if one never expires, or if there is none. */
  readonly lastEnd: number | undefined;
}

export interface KeyStatus {
  /** By kid. */
  readonly peppers: ReadonlyMap<string, KeyUse>;
  /** By id. */
  readonly signing: ReadonlyMap<string, KeyUse>;
  /** The names that each running instance has announced. */
  readonly instances: readonly (readonly string[])[];
}

/** It reads every token, so it takes its time on a large table. Milliseconds. */
const MOST_MS = 120_000;

export async function keyStatus(db: Postgres): Promise<KeyStatus> {
  const used = async (column: "kid" | "signing_key") => {
    const rows = await db.read<{ key: string; live: number; last: number | null }>(
      `with live as (
         select t.${column} as key, least(t.expire_time, q.expire_time) as last
         from sallyport.tokens t
           join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal and p.state <> 'DELETED'
           join sallyport.tenants o on o.id = t.tenant
           left join sallyport.tokens q on q.id = t.parent_id
         where t.revoke_time is null and q.revoke_time is null
           and least(t.issued_n, q.issued_n) >= greatest(p.cut_n, o.cut_n)
       )
       select key, count(*)::int as live, case when bool_or(last is null) then null else max(last) end as last
       from live where last is null or last > clock_timestamp()
       group by 1 order by 1`,
      [],
      MOST_MS,
    );
    return new Map(rows.map(({ key, live, last }) => [key, { live, lastEnd: last ?? undefined }] as const));
  };
  const instances = await db.read<{ kids: string[] }>("select kids from sallyport.validators where reaped_at is null");
  return {
    peppers: await used("kid"),
    signing: await used("signing_key"),
    instances: instances.map(({ kids }) => kids),
  };
}
