import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { bootstrap } from "../src/postgres/first-admin.ts";
import { migrate } from "../src/postgres/migrate.ts";
import { startServer } from "../test/support/postgres.ts";
import { freshKeyring } from "../test/support/program.ts";
import { TestSallyport } from "../test/support/sallyport.ts";
import { machine } from "./machine.ts";

/*
 * The time that `journal.mode: required` adds to a revocation. `npm run -s bench:journal`: three instances on one database, with the
 * journal on a second server, both with fsync. The calls go to the instances in turn, so that each pays for the same noise.
 */

const ROUNDS = 200;
const WARM_UP = 20;
/** Milliseconds at the median. */
const BUDGET = 3;

const KINDS = ["none", "async", "required"] as const;

const own = await startServer();
const other = await startServer();
const instances: TestSallyport[] = [];
let failed = 0;
try {
  console.log(machine());
  const keyring = freshKeyring();
  let admin = "";
  await migrate(own.url);
  const keep = (secret: { reveal(): string }) => (admin = secret.reveal());
  await bootstrap({ url: own.url, keyring, ttlMs: 86_400_000, again: false, keep });
  for (const kind of KINDS) {
    const journal = kind === "none" ? {} : { journal: { url: other.url, mode: kind } };
    const config = { log: { level: "warn" }, ...journal };
    const database = { url: own.url, drop: async () => {} };
    instances.push(await TestSallyport.start({ database, keyring, config }));
  }
  await settled();
  const took: number[][] = KINDS.map(() => []);
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    for (const [k, instance] of instances.entries()) {
      const as = instance.as(admin);
      const { id } = await instance.createToken({}, as);
      const begun = performance.now();
      const { effect } = await as.tokens.revokeToken({ target: { case: "id", value: id } });
      if (effect === undefined) throw new Error("a revocation without its effect");
      if (round >= WARM_UP) took[k]!.push(performance.now() - begun);
    }
  }
  console.log("| journal | revocation p50, ms | p95, ms | |");
  console.log("|---|---|---|---|");
  const at = (k: number, share: number) => took[k]!.toSorted((a, b) => a - b)[Math.floor(share * ROUNDS)]!;
  const added = at(2, 0.5) - at(0, 0.5);
  if (added > BUDGET) failed = 1;
  const verdict = `${added.toFixed(1)} ms more than none; budget ≤ ${BUDGET}: ${failed === 0 ? "met" : "not met"}`;
  for (const [k, kind] of KINDS.entries())
    console.log(`| ${kind} | **${at(k, 0.5).toFixed(1)}** | ${at(k, 0.95).toFixed(1)} | ${k === 2 ? verdict : ""} |`);
} finally {
  await Promise.allSettled(instances.map((instance) => instance.stop()));
  await Promise.allSettled([own.remove(), other.remove()]);
}
console.log(`${1 - failed} passed, ${failed} failed`);
process.exitCode = failed;

/** Until then a change waits for time, not for acknowledgements. */
async function settled(): Promise<void> {
  const sql = new pg.Client(own.url);
  await sql.connect();
  try {
    const ready = `select from sallyport.rev_state
      where compared = sallyport.rev_epoch() and starts_with(settled, sallyport.rev_epoch())`;
    for (const end = performance.now() + 30_000; performance.now() < end; await delay(50))
      if ((await sql.query(ready)).rows.length > 0) return;
    throw new Error("the database does not settle");
  } finally {
    await sql.end();
  }
}
