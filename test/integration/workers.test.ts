import { randomUUID } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { Agent, request } from "node:http";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { type Effect, EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { TokenValidator, Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { FREE_PORTS, folder, type Program } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";

const WORKERS = 4;
const POLICIES = { first: { required_scopes: ["a"] } };
const config = {
  workers: WORKERS,
  canary: { every: "1s" },
  profiles: { svc: { on_reuse: "revoke-family" } },
  policies: POLICIES,
};

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({ config });
});
afterAll(() => sallyport?.stop());

interface Line {
  readonly event: string;
  readonly worker?: number;
  readonly pid?: number;
}

const lines = ({ out }: Program): Line[] =>
  out
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Line);

/** The process ids of the workers that have started, by their numbers. */
const pids = (program: Program) =>
  new Map(
    lines(program)
      .filter(({ event, worker }) => event === "starting" && worker !== undefined)
      .map(({ worker, pid }) => [worker!, pid!]),
  );

const alive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

/** The pids of workers that live. */
const living = (program: Program) => [...pids(program).values()].filter(alive);

/** A client with one long connection of its own. */
function connection(to = sallyport) {
  return createClient(TokenValidator, createGrpcTransport({ baseUrl: to.listeners.data }));
}

/** Opens connections one after the other. Returns how many each worker has. */
async function spread(program: Program, ask: (() => Promise<unknown>)[]): Promise<number[]> {
  const refused = () => lines(program).filter(({ event }) => event === "token_refused");
  const before = refused().length;
  for (const one of ask) await one();
  await program.until(() => refused().length === before + ask.length, "it said what it refused");
  const counts = new Map<number, number>();
  for (const { worker } of refused().slice(before)) counts.set(worker!, (counts.get(worker!) ?? 0) + 1);
  return [...counts.values()].sort((a, b) => b - a);
}

/** Asks over a connection that is new. */
const once = (tokenString: string): Promise<string> =>
  new Promise((resolve) => {
    const url = `${sallyport.listeners.data}/sallyport.v1.TokenValidator/ValidateToken`;
    const asked = request(url, {
      method: "POST",
      agent: new Agent(),
      headers: { "content-type": "application/json", connection: "close" },
    });
    asked.on("error", (error) => resolve(String(error)));
    asked.on("response", async (response) => {
      let text = "";
      for await (const part of response) text += part;
      if (text.includes("overloaded")) return resolve(once(tokenString)); // the machine is busy
      resolve(text.includes('"VERDICT_ALLOW"') ? "ALLOW" : text);
    });
    asked.end(JSON.stringify({ tokenString }));
  });

const metric = (page: string, name: string) =>
  page
    .split("\n")
    .filter((line) => line.startsWith(name) && /[ {]/.test(line[name.length]!))
    .map((line) => Number(line.split(" ").at(-1)));
/** The answers on the data listener, by all workers. */
const validations = (page: string) => {
  const lines = page.split("\n").filter((line) => /^sallyport_validations_total\{.*listener="data"/.test(line));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
};
const page = async () => (await fetch(`${sallyport.listeners.ops}/metrics`)).text();

const waitedMs = ({ waited }: Effect) => Number(waited!.seconds) * 1000 + waited!.nanos / 1e6;

/** A string of our form that no token has: every worker refuses it, and says so. */
const JUNK = "sp_pat_junk";

test("eight long connections are spread over four workers, at worst 3-2-2-1", async () => {
  const clients = Array.from({ length: 8 }, () => connection());
  const counts = await spread(
    sallyport.program,
    clients.map((client) => () => client.validateToken({ tokenString: JUNK })),
  );
  expect(counts.length).toBe(WORKERS);
  expect(counts[0]).toBeLessThanOrEqual(3);
});

test("a revocation is in force on every worker when it returns, though each has the token in its cache", async () => {
  const clients = Array.from({ length: 8 }, () => connection());
  const ask = (tokenString: string) =>
    Promise.all(clients.map(async (client) => (await client.validateToken({ tokenString })).verdict));
  for (let i = 0; i < 5; i++) {
    const { tokenString, id } = await sallyport.createToken();
    expect(new Set([...(await ask(tokenString)), ...(await ask(tokenString))])).toEqual(new Set([Verdict.ALLOW]));
    const { effect } = await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } });
    expect(new Set(await ask(tokenString))).toEqual(new Set([Verdict.INVALID_TOKEN]));
    expect([effect!.mode, effect!.validators]).toEqual([EffectMode.ACKED, WORKERS + 1]);
  }
});

test("the metrics of all processes are on one page, and counts outlive a worker", async () => {
  const before = validations(await page());
  const { tokenString } = await sallyport.createToken();
  for (let i = 0; i < 20; i++) expect(await once(tokenString)).toBe("ALLOW");
  const text = await page();
  expect(validations(text)).toBe(before + 20);
  expect(metric(text, "sallyport_build_info")).toEqual([1]);
  expect(metric(text, "sallyport_workers")).toEqual([WORKERS]);
  expect(metric(text, "sallyport_lease_seconds")).toEqual([1.5]);
  expect(metric(text, "sallyport_lease_age_seconds")[0]).toBeLessThan(1.5);
  expect(metric(text, "process_start_time_seconds")[0]).toBeGreaterThan(1e9);
  // Every process follows the log: sums would be five times as high.
  expect(metric(text, 'sallyport_guard{state="ok"}')).toEqual([1]);
  await replaced(() => process.kill(living(sallyport.program)[0]!, "SIGKILL"));
  expect(validations(await page())).toBeGreaterThanOrEqual(before + 20);
  expect(metric(await page(), 'sallyport_troubles_total{what="worker_exited"}')[0]).toBeGreaterThanOrEqual(1);
});

/** Ends a worker, and waits until another one has its place and all can answer. */
async function replaced(end: () => void): Promise<void> {
  const started = pids(sallyport.program).size;
  end();
  await sallyport.program.until((program) => pids(program).size > started, "another worker started");
  await expect.poll(async () => metric(await page(), "sallyport_workers"), { timeout: 20_000 }).toEqual([WORKERS]);
}

test("after the kill of a worker no new connection fails, and a revocation does not wait for the dead one", async () => {
  const { tokenString } = await sallyport.createToken();
  const other = await sallyport.createToken();
  const [victim] = living(sallyport.program);
  await replaced(() => process.kill(victim!, "SIGKILL"));
  const rows = () => sallyport.sql<{ n: number }>("select count(*)::int as n from sallyport.validators");
  await expect.poll(async () => (await rows())[0]!.n).toBe(WORKERS + 1);

  const [second] = living(sallyport.program);
  // The log says one line a second of it, and the other worker may have ended in the same second.
  const exits = async () => metric(await page(), 'sallyport_troubles_total{what="worker_exited"}')[0]!;
  const before = await exits();
  process.kill(second!, "SIGKILL");
  await expect.poll(exits, { timeout: 20_000 }).toBeGreaterThan(before);
  const asked: Promise<string>[] = [];
  const revoked = sallyport.admin.tokens.revokeToken({ target: { case: "id", value: other.id } });
  for (let i = 0; i < 400; i++) {
    asked.push(once(tokenString));
    if (i % 20 === 19) await asked.at(-1);
  }
  expect(new Set(await Promise.all(asked))).toEqual(new Set(["ALLOW"]));
  const { effect } = await revoked;
  expect(effect!.mode).toBe(EffectMode.ACKED);
  // By acknowledgements of the living. By time it would take 1.85 s, and a dead row is given up after 600 ms.
  expect(waitedMs(effect!)).toBeLessThan(600);
  await expect.poll(async () => metric(await page(), "sallyport_workers"), { timeout: 20_000 }).toEqual([WORKERS]);
});

test("the row of a dead worker that fed a client cache stays as reaped, and a change waits for the cache's lease", async () => {
  const client = connection();
  const poll = { cacheId: randomUUID(), epoch: new Uint8Array(0), position: 0n };
  let answer = await client.watchChanges(poll);
  while (answer.lease === undefined) {
    answer = await client.watchChanges({ ...poll, epoch: answer.epoch, position: answer.position });
  }
  const { tokenString, id } = await sallyport.createToken();
  const seen = lines(sallyport.program).length;
  await client.validateToken({ tokenString: JUNK });
  const worker: number = await sallyport.program.until(
    (program) =>
      lines(program)
        .slice(seen)
        .find(({ event }) => event === "token_refused")?.worker,
    "it said who has the connection",
  );
  const victim = pids(sallyport.program).get(worker)!;
  let effect: Effect | undefined;
  await replaced(() => {
    process.kill(victim, "SIGKILL");
    void sallyport.admin.tokens
      .revokeToken({ target: { case: "id", value: id } })
      .then((done) => (effect = done.effect));
  });
  await expect.poll(() => effect?.position, { timeout: 5_000 }).toBeGreaterThan(0n);
  // The cache's lease is 1.3 s from a poll before the kill. By the wait of 1.85 s it is over on every clock.
  expect(waitedMs(effect!)).toBeGreaterThan(1_000);
  expect(await once(tokenString)).toContain("INVALID_TOKEN");
  const rows = () => sallyport.sql<{ n: number }>("select count(*)::int as n from sallyport.validators");
  await expect.poll(async () => (await rows())[0]!.n, { timeout: 10_000 }).toBe(WORKERS + 1);
});

test("a reuse that a worker sees ends the family, by the primary", async () => {
  await sallyport.registered("service:reuse");
  const old = await sallyport.createToken({ profile: "svc", principal: "service:reuse" });
  const fresh = await sallyport.admin.tokens.rotateToken({ id: old.id });
  expect(await sallyport.verdict(old.tokenString)).toBe("INVALID_TOKEN");
  await expect.poll(() => sallyport.verdict(fresh.tokenString), { timeout: 5_000 }).toBe("INVALID_TOKEN");
});

test("the canary asks every worker", async () => {
  const refused = async () => metric(await page(), 'sallyport_canary_total{outcome="refused"}')[0]!;
  const before = await refused();
  await expect.poll(refused, { timeout: 10_000 }).toBeGreaterThanOrEqual(before + WORKERS + 1);
  const accepted = metric(await page(), 'sallyport_canary_total{outcome="accepted"}');
  expect(accepted).toEqual([0]);
});

test("SIGHUP reaches the primary and all workers", async () => {
  const reloads = () => lines(sallyport.program).filter(({ event }) => event === "reloaded");
  const before = reloads().length;
  sallyport.program.kill("SIGHUP");
  await sallyport.program.until(() => reloads().length >= before + WORKERS + 1, "all had reloaded");
  expect(
    new Set(
      reloads()
        .slice(before)
        .map(({ worker }) => worker),
    ).size,
  ).toBe(WORKERS + 1);
});

test("no argument of a worker holds a secret, and its heap has the flags of npm start", () => {
  for (const pid of living(sallyport.program)) {
    const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    expect(argv).toContain("--heap-growing-percent=40");
    expect(argv.join(" ")).not.toContain("postgres:");
    for (const key of Object.values(sallyport.keyring.keys)) expect(argv.join(" ")).not.toContain(key);
  }
});

test("on SIGTERM no process and no row is left", async () => {
  const two = await TestSallyport.start({ config: { workers: 2 } });
  onTestFinished(async () => {
    await two.halt(); // ends the connection for `sql`
    await two.dispose();
  });
  const workers = living(two.program);
  expect(workers.length).toBe(2);
  expect(await two.halt()).toBe(0);
  expect(workers.filter(alive)).toEqual([]);
  expect(two.program.err).toBe("");
  expect(await two.sql("select id from sallyport.validators")).toEqual([]);
});

test("if the primary is killed, its workers delete their rows and end; a unix socket has its mode and is shared", async () => {
  const place = folder();
  const path = join(place.path, "data.sock");
  const data = { bind: `unix:${path}`, unix_mode: "0660" };
  const two = await TestSallyport.start({ config: { workers: 2, listeners: { ...FREE_PORTS, data } } });
  onTestFinished(async () => {
    await two.halt();
    await two.dispose();
    place.remove();
  });
  expect(statSync(path).mode & 0o777).toBe(0o660);
  const ask = () =>
    new Promise((resolve, reject) => {
      const headers = { "content-type": "application/json" };
      const to = { socketPath: path, path: "/sallyport.v1.TokenValidator/ValidateToken", method: "POST", headers };
      request({ ...to, agent: new Agent() }, (response) => response.resume().on("end", resolve))
        .on("error", reject)
        .end(JSON.stringify({ tokenString: JUNK }));
    });
  expect(await spread(two.program, [ask, ask, ask, ask])).toEqual([2, 2]);
  const workers = living(two.program);
  two.program.kill("SIGKILL");
  await two.program.exited;
  await expect.poll(() => workers.filter(alive), { timeout: 10_000 }).toEqual([]);
  const modes = await two.sql<{ mode: string }>("select mode from sallyport.validators");
  expect(modes.map(({ mode }) => mode)).toEqual(["full"]);
});

test("five deaths of workers in ten seconds end the program with 70", async () => {
  const two = await TestSallyport.start({ config: { workers: 2 } });
  onTestFinished(() => two.dispose());
  const killed = new Set<number>();
  two.program.child.stdout!.on("data", () => {
    for (const pid of pids(two.program).values()) {
      if (killed.has(pid)) continue;
      killed.add(pid);
      process.kill(pid, "SIGKILL");
    }
  });
  two.program.kill("SIGHUP"); // prints a line
  expect(await two.program.exited).toBe(70);
  expect(two.program.out).toContain('"workers_failing"');
  expect([...pids(two.program).values()].filter(alive)).toEqual([]);
});
