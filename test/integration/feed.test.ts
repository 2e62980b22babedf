import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { freshKeyring } from "../../src/domain/keyring.ts";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { TokenValidator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { startServer, type ThrowawayServer } from "../support/postgres.ts";
import { failure, nameOf, TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";

const mono = () => Number(process.hrtime.bigint()) / 1e6;
const PROGRAM = join(import.meta.dirname, "../support/feed-program.ts");

interface Report {
  readonly allowed: Readonly<Record<string, number>>;
  readonly cached: number;
  readonly asked: number;
  readonly polls: number;
  readonly failed: number;
  readonly leased: boolean;
  readonly position: number;
}

/** A program with a client cache, in a process of its own. */
class Cache {
  readonly child: ChildProcess;
  readonly #reports = new Map<number, (report: Report) => void>();
  #asked = 0;

  constructor(servers: readonly string[], tokens: readonly string[]) {
    this.child = spawn(process.execPath, [PROGRAM], { stdio: ["pipe", "pipe", "inherit"] });
    createInterface({ input: this.child.stdout! }).on("line", (line) => {
      const report = JSON.parse(line) as Report & { report: number };
      this.#reports.get(report.report)?.(report);
    });
    this.tell({ servers, tokens });
    caches.push(this);
  }

  tell(command: object): void {
    this.child.stdin!.write(`${JSON.stringify(command)}\n`);
  }

  report(): Promise<Report> {
    const number = ++this.#asked;
    const { promise, resolve } = Promise.withResolvers<Report>();
    this.#reports.set(number, resolve);
    this.tell({ report: number });
    return promise;
  }

  /** Resolves when it holds a lease and answers every token from its cache. */
  async warm(): Promise<void> {
    await expect.poll(async () => (await this.report()).leased, { timeout: 15_000 }).toBe(true);
    const { cached } = await this.report();
    await expect.poll(async () => (await this.report()).cached, { timeout: 15_000 }).toBeGreaterThan(cached + 200);
  }
}

/** Revocations during one fault, at most. */
const MOST_REVOKED = 8;

const caches: Cache[] = [];
/** When the revocation of a token returned OK, by token string. */
const revoked = new Map<string, number>();
let postgres: ThrowawayServer;
let link: TcpProxy;
let keyring: ReturnType<typeof freshKeyring>;
let adminToken = "";
let a: TestSallyport;
let b: TestSallyport;
const tokens: { id: string; tokenString: string }[] = [];

const on = (url: string) =>
  TestSallyport.start({
    keyring,
    database: { url, drop: () => Promise.resolve() },
    config: { log: { level: "info" } },
  });
const linked = () => postgres.url.replace(String(postgres.port), String(link.port));

beforeAll(async () => {
  postgres = await startServer({ fsync: false });
  await migrate(postgres.url);
  keyring = freshKeyring();
  await bootstrap({
    ...{ url: postgres.url, keyring, ttlMs: 86_400_000, again: false },
    keep: (secret) => (adminToken = secret.reveal()),
  });
  link = await startTcpProxy({ port: postgres.port });
  a = await on(postgres.url);
  b = await on(linked());
  await minted(60);
  // Acknowledgements count once the leases of earlier epochs are over.
  await settled();
}, 120_000);

afterAll(async () => {
  for (const { child } of caches) child.kill("SIGKILL");
  await a?.halt();
  await b?.halt();
  await a?.dispose();
  await b?.dispose();
  await link?.stop();
  await postgres?.remove();
}, 60_000);

/** Mints until so many live tokens are left. */
async function minted(count: number): Promise<void> {
  while (tokens.length < count) tokens.push(await a.createToken({}, a.as(adminToken)));
}

/** Resolves when acknowledgements count. */
async function settled(): Promise<void> {
  const admin = a.as(adminToken);
  for (let attempt = 0; attempt < 60; attempt++) {
    const { id } = await a.createToken({}, admin);
    const { effect } = await admin.tokens.revokeToken({ target: { case: "id", value: id }, reason: "" });
    if (effect?.mode === EffectMode.ACKED) return;
  }
  throw new Error("the epoch is never settled");
}

const strings = () => tokens.map(({ tokenString }) => tokenString);

/** Revokes the next token through the first instance. Returns how it came into force, and after how long. */
async function revokeOne(): Promise<{ mode: string; ms: number }> {
  const { id, tokenString } = tokens.shift()!;
  const from = mono();
  const { effect } = await a.as(adminToken).tokens.revokeToken({ target: { case: "id", value: id }, reason: "test" });
  const ok = mono();
  revoked.set(tokenString, ok);
  return { mode: nameOf(EffectMode, effect!.mode), ms: ok - from };
}

/** No cache has accepted a token in a call that started after its revocation had returned. */
async function noneAccepted(...of: readonly Cache[]): Promise<void> {
  for (const cache of of) {
    const { allowed } = await cache.report();
    expect(Object.keys(allowed).length).toBeGreaterThan(0);
    for (const [token, ok] of revoked) expect((allowed[token] ?? 0) - ok, "accepted after OK").toBeLessThan(0);
  }
}

test("a change waits for the acknowledgement of a healthy cache, and no longer; a dead cache delays the next changes for at most 1.61 s", async () => {
  const one = new Cache([a.listeners.data], strings());
  const two = new Cache([b.listeners.data], strings());
  await Promise.all([one.warm(), two.warm()]);
  const waits: number[] = [];
  for (let i = 0; i < 15; i++) {
    const { mode, ms } = await revokeOne();
    expect(mode).toBe("ACKED");
    waits.push(ms);
  }
  const median = waits.toSorted((x, y) => x - y)[7]!;
  process.stdout.write(
    `revocation with two healthy caches: p50 ${median.toFixed(0)} ms, max ${Math.max(...waits).toFixed(0)} ms\n`,
  );
  expect(median).toBeLessThan(400);
  await noneAccepted(one, two);

  two.child.kill("SIGKILL");
  const delayed = await revokeOne();
  expect(delayed.mode).toBe("ACKED");
  process.stdout.write(`revocation after a cache died: ${delayed.ms.toFixed(0)} ms\n`);
  expect(delayed.ms).toBeLessThan(1_610 + 400);
  const next = await revokeOne();
  expect(next.mode).toBe("ACKED");
  expect(next.ms).toBeLessThan(800);
  const rows = await b.sql<{ reaped: number }>("select count(reaped_at)::int as reaped from sallyport.validators");
  expect(rows).toEqual([{ reaped: 0 }]);
  await noneAccepted(one);
  one.child.kill("SIGKILL");
}, 120_000);

test("under pauses, a cut link, a new epoch and a lost instance, no cache accepts a token after its revocation returned", async () => {
  await minted(7 * MOST_REVOKED + 5);
  const all = [a.listeners.data, b.listeners.data];
  const one = new Cache(all, strings());
  const two = new Cache(all.toReversed(), strings());
  const fault = async (
    what: string,
    start: () => void | Promise<void>,
    end: () => void | Promise<void>,
    ms = 2_500,
  ) => {
    await Promise.all([one.warm(), two.warm()]);
    await start();
    const waits: string[] = [];
    const until = mono() + ms;
    while (mono() < until && waits.length < MOST_REVOKED) {
      const { mode, ms } = await revokeOne();
      waits.push(`${mode} ${ms.toFixed(0)}`);
      await delay(100);
    }
    await end();
    process.stdout.write(`${what}: ${waits.join(", ")}\n`);
    await delay(300);
    await noneAccepted(one, two);
  };
  await fault(
    "no fault",
    () => {},
    () => {},
    300,
  );
  await fault(
    "a cache pauses",
    () => void two.child.kill("SIGSTOP"),
    () => void two.child.kill("SIGCONT"),
  );
  await fault(
    "an instance pauses",
    () => b.program.kill("SIGSTOP"),
    () => b.program.kill("SIGCONT"),
  );
  await fault(
    "the database link of an instance is cut",
    () => link.set({ kind: "blackhole" }),
    () => link.set({ kind: "pass" }),
  );
  await fault(
    "the database link of an instance is reset",
    () => link.set({ kind: "refuse" }),
    () => link.set({ kind: "pass" }),
  );
  await fault(
    "the database restarts",
    () => postgres.restart(),
    () => {},
  );
  await settled();
  await fault(
    "an instance is killed, and another starts",
    () => b.program.kill("SIGKILL"),
    async () => {
      await b.program.exited;
      await b.dispose();
      b = await on(linked());
      for (const cache of [one, two]) cache.tell({ servers: [a.listeners.data, b.listeners.data] });
    },
  );
  await fault(
    "an instance stops, and another starts",
    () => b.program.kill("SIGTERM"),
    async () => {
      await b.program.exited;
      await b.dispose();
      b = await on(linked());
      for (const cache of [one, two]) cache.tell({ servers: [a.listeners.data, b.listeners.data] });
    },
  );
  const { cached, asked } = await one.report();
  process.stdout.write(`${revoked.size} revocations; ${cached} answers from one cache, ${asked} questions\n`);
}, 240_000);

test("a poll says why it is refused", async () => {
  const ask = (request: object) => failure(a.validator.watchChanges(request));
  expect(await ask({})).toMatchObject({ reason: "INVALID_FIELD", violations: [{ field: "cache_id" }] });
  const epoch = new Uint8Array(17);
  expect(await ask({ cacheId: randomUUID(), epoch })).toMatchObject({ violations: [{ field: "epoch" }] });
});

test("one cache too many is refused; one that leaves makes room at once", async () => {
  const small = await TestSallyport.start({
    ...{ keyring, database: { url: postgres.url, drop: () => Promise.resolve() } },
    config: { feed: { max_clients: 1, lease: "1s" } },
  });
  onTestFinished(() => small.halt().then(() => small.dispose()));
  const first = randomUUID();
  const joined = await small.validator.watchChanges({ cacheId: first });
  expect(joined).toMatchObject({ position: joined.floor, changed: [] });
  expect(joined.epoch.length).toBe(16);
  expect(Number(joined.lease!.seconds) * 1000 + joined.lease!.nanos / 1e6).toBeLessThanOrEqual(1_000);
  const refused = await failure(small.validator.watchChanges({ cacheId: randomUUID() }));
  expect(refused).toMatchObject({ reason: "LIMIT_EXCEEDED", metadata: { limit: "feed.max_clients" }, retryMs: 2_000 });
  await small.validator.watchChanges({ cacheId: first, leaving: true });
  const other = small.client(TokenValidator, "data", "connect-json");
  const later = await other.watchChanges({ cacheId: randomUUID() });
  expect(later.lease).toBeDefined();
}, 60_000);
