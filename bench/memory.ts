// `npm run -s bench:memory`: resident memory of an instance while distinct tokens pass, each a miss, many are revoked, and the
// cache is full of tokens in use.
//   --tokens N    that pass; 150,000 by default, 10,000,000 for the whole (an hour, 10 GB)
//   --revoked N   of them that are revoked at the end; by default a tenth, at most 300,000
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import pg from "pg";
import { schema } from "../src/config/schema.ts";
import { mintTokenString, newTokenId } from "../src/domain/token-string.ts";
import { Verdict } from "../src/gen/sallyport/v1/token_validator_pb.ts";
import { cycle } from "./cycle.ts";
import { residentKiB, stayAside } from "./machine.ts";
import { Product } from "./product.ts";
import { validateGrpc } from "./request.ts";

const MOST_MIB = 256;
const GROUP = 25_000;
/** The rows of a full cache. */
const CACHED = schema.parse({}).cache.l1.entries;
const SHAPE = { connections: 4, streams: 16 };
const REVOKED_BY = "memory-revoked";

const { values } = parseArgs({
  options: { tokens: { type: "string", default: "150000" }, revoked: { type: "string" } },
});
const total = Math.min(Math.max(Number(values.tokens), GROUP), 10_000_000);
const toRevoke = Math.min(Number(values.revoked ?? Math.min(total / 10, 300_000)), total);
let [passed, failed] = [0, 0];

stayAside();
const folder = mkdtempSync(join(tmpdir(), "sallyport-memory-"));
const product = await Product.start(folder);
const { pid, address } = await product.instance("sallyport", "tcp");
const { keyring } = product;
const sql = new pg.Client({ connectionString: product.databaseUrl });
await sql.connect();
let highest = 0;
try {
  await audited("insert into sallyport.principals (tenant, name) values ('default', 'user:memory')");
  print(`at start ${look()} MiB`);
  const revoked: string[] = [];
  let recent: string[] = [];
  for (let done = 0; done < total; done += GROUP) {
    const group = await minted(Math.min(GROUP, total - done), done < toRevoke ? REVOKED_BY : "memory");
    if (done < toRevoke) revoked.push(...group);
    else recent = [...recent, ...group].slice(-CACHED);
    await ask(group, Verdict.ALLOW);
    const at = look();
    if ((done / GROUP) % Math.ceil(total / GROUP / 20) === 0) print(`${done + group.length} tokens: ${at} MiB`);
  }
  check(`${total} tokens: at most ${MOST_MIB} MiB`, highest <= MOST_MIB, `${highest} MiB`);
  const { admin, headers } = product.admin();
  const begun = performance.now();
  const { revokedCount } = await admin.revokeTokens({ createdBy: REVOKED_BY }, { headers, timeoutMs: 115_000 });
  const seconds = (performance.now() - begun) / 1000;
  check(`all of ${revoked.length} are revoked`, revokedCount === revoked.length, `${seconds.toFixed(1)} s`);
  await ask(revoked, Verdict.INVALID_TOKEN);
  // An answer is kept from the second use on.
  for (let uses = 0; uses < 2; uses++) await ask(recent, Verdict.ALLOW);
  look();
  check(
    `${revoked.length} refused, ${recent.length} in use: at most ${MOST_MIB} MiB`,
    highest <= MOST_MIB,
    `${highest} MiB`,
  );
} finally {
  await sql.end();
  await product.stop();
  rmSync(folder, { recursive: true, force: true });
}
print(`${passed} passed, ${failed} failed, 0 skipped`);
process.exitCode = failed > 0 ? 1 : 0;

/** Rejects at the first unexpected answer. */
async function ask(tokens: readonly string[], verdict: Verdict): Promise<void> {
  if (tokens.length === 0) return;
  const requests = tokens.map((token) => validateGrpc(token, verdict));
  await cycle(address, requests, SHAPE, 0, requests.length);
}

/** Inserts rows by SQL, in the form in which minting makes them. */
async function minted(count: number, createdBy: string): Promise<string[]> {
  const made = Array.from({ length: count }, () => ({
    id: newTokenId(),
    ...mintTokenString("sp_pat", keyring.current),
  }));
  await audited(
    `insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, scopes, created_by, family)
     select id, decode(digest, 'hex'), $1, hint, 'default', 'pat', 'user:memory', '{items.read}', $2, id
     from unnest($3::text[], $4::text[], $5::text[]) w (id, digest, hint)`,
    [
      keyring.current.kid,
      createdBy,
      made.map(({ id }) => id),
      made.map(({ digest }) => Buffer.from(digest, "latin1").toString("hex")),
      made.map(({ hint }) => hint),
    ],
  );
  return made.map(({ tokenString }) => tokenString.reveal());
}

async function audited(text: string, parameters: unknown[] = []): Promise<void> {
  await sql.query("begin");
  await sql.query(
    "insert into sallyport.audit (tenant, actor, action, target) values ('default', 'bench', 'token.create', '')",
  );
  await sql.query(text, parameters);
  await sql.query("commit");
}

function look(): number {
  const mib = Math.round(residentKiB(pid) / 1024);
  highest = Math.max(highest, mib);
  return mib;
}

function check(what: string, holds: boolean, found: string): void {
  if (holds) passed++;
  else failed++;
  print(`${holds ? "passed" : "FAILED"}: ${what}: ${found}`);
}

function print(text: string): void {
  console.log(text);
}
