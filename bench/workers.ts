import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Verdict } from "../src/gen/sallyport/v1/token_validator_pb.ts";
import { bootstrap } from "../src/postgres/first-admin.ts";
import { migrate } from "../src/postgres/migrate.ts";
import { startServer } from "../test/support/postgres.ts";
import { freshKeyring } from "../test/support/program.ts";
import { TestSallyport } from "../test/support/sallyport.ts";
import { h2load } from "./h2load.ts";
import { cpuMicros, machine, OTHER_CORE, pin, SERVER_CORE, stayAside, whyUnpinned } from "./machine.ts";
import { median } from "./measure.ts";
import { digits } from "./report.ts";
import { validateGrpc } from "./request.ts";

/*
 * The CPU time that `workers: 2` adds to a call. `npm run -s bench:workers`: a program without workers and one with two, on one
 * database, asked in turn. Once each worker has a core, of which the second also runs the load; once both have the core of the
 * program without workers. Two cores cannot show how throughput grows with workers.
 */

const ROUNDS = 7;
const SECONDS = 1.5;
const SHAPE = { connections: 8, streams: 16 };
/** CPU per call, as a part of that of one process. */
const BUDGET = 1.05;

const folder = mkdtempSync(join(tmpdir(), "sallyport-bench-"));
stayAside();
const server = await startServer();
const programs: TestSallyport[] = [];
let failed = 0;
try {
  console.log(`${machine()}${whyUnpinned === undefined ? "" : `; ${whyUnpinned}`}`);
  const keyring = freshKeyring();
  let admin = "";
  await migrate(server.url);
  const keep = (secret: { reveal(): string }) => (admin = secret.reveal());
  await bootstrap({ url: server.url, keyring, ttlMs: 86_400_000, again: false, keep });
  for (const workers of [1, 2]) {
    const database = { url: server.url, drop: async () => {} };
    programs.push(await TestSallyport.start({ database, keyring, config: { workers, log: { level: "warn" } } }));
  }
  const { tokenString } = await programs[0]!.createToken({ scopes: ["items.read"] }, programs[0]!.as(admin));
  const request = validateGrpc(tokenString, Verdict.ALLOW);
  const load = ({ listeners }: TestSallyport) =>
    h2load(listeners.data.replace("http://", ""), request, SHAPE, { folder, seconds: SECONDS });
  const used = ({ program }: TestSallyport) => family(program.pid).reduce((sum, pid) => sum + cpuMicros(pid), 0);
  const [, second] = family(programs[1]!.program.pid).slice(1);
  console.log("| processes | cores | CPU µs per call | least–most | |");
  console.log("|---|---|---|---|---|");
  for (const own of [true, false]) {
    for (const { program } of programs) for (const pid of family(program.pid)) pin(pid, SERVER_CORE);
    if (own) pin(second!, OTHER_CORE);
    for (const one of programs) await load(one);
    const perCall: number[][] = [[], []];
    for (let round = 0; round < ROUNDS; round++) {
      for (const [i, one] of programs.entries()) {
        const before = used(one);
        const { calls } = await load(one);
        perCall[i]!.push((used(one) - before) / calls);
      }
    }
    const ratio = median(perCall[0]!.map((one, round) => perCall[1]![round]! / one));
    if (own && ratio > BUDGET) failed = 1;
    const spread = (of: readonly number[]) =>
      `**${digits(median(of))}** | ${digits(Math.min(...of))}–${digits(Math.max(...of))}`;
    const verdict = `${ratio.toFixed(2)} of one process${own ? `; budget ≤ ${BUDGET}: ${failed === 0 ? "met" : "not met"}` : ""}`;
    console.log(`| one | one | ${spread(perCall[0]!)} | |`);
    console.log(
      `| primary and 2 workers | ${own ? "one for each worker" : "one"} | ${spread(perCall[1]!)} | ${verdict} |`,
    );
  }
} finally {
  await Promise.allSettled(programs.map((one) => one.stop()));
  await server.remove();
  rmSync(folder, { recursive: true, force: true });
}
console.log(`${1 - failed} passed, ${failed} failed`);
process.exitCode = failed;

/** A process and its children. */
function family(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").filter(Boolean);
  return [pid, ...children.map(Number)];
}
