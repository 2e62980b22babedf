// `npm run -s bench:lists`: what validation pays while others list, and what a row of the audit pays for its indexes.
//   --rows N      of tokens and as many of the audit; 50,000 by default, 1,000,000 for the whole (ten minutes)
//   --seconds S   of each measurement, 2 by default; five of each, one after the other
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import pg from "pg";
import { Verdict } from "../src/gen/sallyport/v1/token_validator_pb.ts";
import { cycle } from "./cycle.ts";
import { CALLERS, Listing } from "./listing.ts";
import { machine, pin, SERVER_CORE, stayAside } from "./machine.ts";
import { median } from "./measure.ts";
import { Product } from "./product.ts";
import { digits } from "./report.ts";
import { validateGrpc } from "./request.ts";

const MOST = 2;
const ROUNDS = 5;
const GROUP = 25_000;
const AUDIT_ROWS = 10_000;
/** More than the instance caches, so that each of them is read. */
const UNCACHED = 256;
const SHAPE = { connections: 2, streams: 2 };

const { values } = parseArgs({
  options: { rows: { type: "string", default: "50000" }, seconds: { type: "string", default: "2" } },
});
const total = Math.min(Math.max(Number(values.rows), GROUP), 1_000_000);
const seconds = Math.min(Math.max(Number(values.seconds), 1), 60);
let [passed, failed] = [0, 0];

stayAside();
const folder = mkdtempSync(join(tmpdir(), "sallyport-lists-"));
const product = await Product.start(folder);
const { address } = await product.instance("sallyport", "small");
const sql = new pg.Client({ connectionString: product.databaseUrl });
await sql.connect();
let listing: Listing | undefined;
try {
  console.log(machine());
  const { live, many } = await product.mint(UNCACHED);
  await fill();
  listing = new Listing(product);
  // Beside the server in both measurements: the other core is the database's and theirs who list.
  pin(process.pid, SERVER_CORE);
  const kinds = {
    "cached token": [validateGrpc(live, Verdict.ALLOW)],
    "token that is read from PostgreSQL": many.map((token) => validateGrpc(token, Verdict.ALLOW)),
  };
  console.log(
    `| ${total.toLocaleString("en")} rows | p99 ms alone | p99 ms beside ${CALLERS} callers who list | ratio | |`,
  );
  console.log("|---|---|---|---|---|");
  for (const [kind, requests] of Object.entries(kinds)) {
    const p99 = async () => (await cycle(address, requests, SHAPE, seconds)).p99;
    await p99();
    const alone: number[] = [];
    const beside: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      alone.push(await p99());
      await listing.during(async () => beside.push(await p99()));
    }
    const ratio = median(beside) / median(alone);
    const holds = ratio <= MOST;
    if (holds) passed++;
    else failed++;
    const judged = `budget ≤ ${MOST}: ${holds ? "met" : "not met"}`;
    console.log(
      `| ${kind} | ${digits(median(alone))} | ${digits(median(beside))} | **${ratio.toFixed(2)}** | ${judged} |`,
    );
  }
  console.log(`${listing.told.pages} pages were listed; ${listing.told.turnedAway} calls were told to come later`);
  await indexes();
} finally {
  listing?.stop();
  await sql.end();
  await product.stop();
  rmSync(folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed, 0 skipped`);
process.exitCode = failed > 0 ? 1 : 0;

/** Tokens and audit rows of many principals; what the callers look for is one in ten thousand, or none. */
async function fill(): Promise<void> {
  await audited(
    `insert into sallyport.principals (tenant, name) select 'default', 'user:list' || n from generate_series(0, 999) n`,
  );
  for (let from = 0; from < total; from += GROUP) {
    const span = [from, from + GROUP - 1];
    await audited(
      `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, create_time)
       select id, sha256(id::bytea), '1', 'sp_pat_1' || n, 'default', case when n % 10000 = 0 then 'svc' else 'pat' end,
         'user:list' || n % 1000, 'bench', id, now() - n * interval '1 s'
       from generate_series($1::int, $2::int) n cross join lateral (select 'tok_' || lpad(n::text, 22, '0') as id) i`,
      span,
    );
    await sql.query(
      `insert into sallyport.audit (at, tenant, actor, action, target, owner)
       select now() - n * interval '1 s', 'default', 'user:list' || n % 1000,
         case when n % 10000 = 0 then 'token.reuse' else 'token.create' end, 'token:t' || n, 'user:list' || n % 997
       from generate_series($1::int, $2::int) n`,
      span,
    );
  }
  await sql.query("analyze");
}

async function audited(text: string, parameters: unknown[] = []): Promise<void> {
  await sql.query("begin");
  await sql.query(
    "insert into sallyport.audit (tenant, actor, action, target) values ('default', 'bench', 'token.create', '')",
  );
  await sql.query(text, parameters);
  await sql.query("commit");
}

/** The cost of an audit row: into the table itself, and into one of the same columns with its key alone. */
async function indexes(): Promise<void> {
  await sql.query("create table public.plain (like sallyport.audit including defaults including identity)");
  await sql.query("alter table public.plain add primary key (seq)");
  const figures: Record<string, { time: number[]; wal: number[] }> = {};
  for (let round = 0; round < ROUNDS; round++) {
    for (const table of ["sallyport.audit", "public.plain"]) {
      const before = await lsn();
      const begun = performance.now();
      await sql.query(
        `insert into ${table} (tenant, actor, action, target, owner)
         select 'default', 'user:list' || n % 1000, 'token.create', 'token:t' || n, 'user:list' || n % 997
         from generate_series(1, $1::int) n`,
        [AUDIT_ROWS],
      );
      const of = (figures[table] ??= { time: [], wal: [] });
      of.time.push(((performance.now() - begun) * 1000) / AUDIT_ROWS);
      of.wal.push(((await lsn()) - before) / AUDIT_ROWS);
    }
  }
  const shown = (table: string) =>
    `${digits(median(figures[table]!.time))} µs and ${Math.round(median(figures[table]!.wal))} bytes of WAL`;
  console.log(
    `a row of the audit: ${shown("sallyport.audit")}; with its key as the only index: ${shown("public.plain")}`,
  );
}

async function lsn(): Promise<number> {
  const { rows } = await sql.query("select (pg_current_wal_insert_lsn() - '0/0')::float8 as at");
  return rows[0].at;
}
