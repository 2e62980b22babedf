import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { migrate } from "../../src/postgres/migrate.ts";
import { hasPostgres, startServer, type ThrowawayServer } from "../support/postgres.ts";
import { freshKeyring } from "../support/program.ts";
import { type RedisServer, redisProgram, startRedis } from "../support/redis.ts";
import { type Place, WAYS } from "../support/restore.ts";
import { TestSallyport } from "../support/sallyport.ts";

const redisIsHere = await redisProgram().then(
  () => true,
  () => false,
);
const BACK_MS = 20_000;
let server: ThrowawayServer;
let redis: RedisServer;
let made = 0;

beforeAll(async () => {
  server = await startServer({ major: hasPostgres(15) ? 15 : 18, fsync: false });
  if (redisIsHere) redis = await startRedis();
});
afterAll(async () => {
  await redis?.stop();
  await server?.remove();
});

/** A deployment on a database that will be restored. */
async function deployment() {
  const name = `restored_${++made}`;
  const place: Place = { port: server.port, database: name, binDir: server.binDir };
  const database = { url: `postgres://sallyport@127.0.0.1:${server.port}/${name}`, drop: async () => {} };
  const admin = new pg.Client(server.url.replace(/sallyport$/, "postgres"));
  await admin.connect();
  await admin.query(`create database ${name}`);
  await admin.end();
  await migrate(database.url);
  const keyring = freshKeyring();
  let adminToken = "";
  const keep = (secret: { reveal(): string }) => (adminToken = secret.reveal());
  await bootstrap({ url: database.url, keyring, ttlMs: 86_400_000, again: false, keep });
  const config = { redis: { url: redis.url } };
  return { place, adminToken, start: () => TestSallyport.start({ database, keyring, config }) };
}

/** Asks all instances for a token, again and again; `stop` tells the answers that came. */
function asked(instances: readonly TestSallyport[], tokenString: string) {
  const answers = new Set<string>();
  let stopped = false;
  const loops = instances.map(async (one) => {
    while (!stopped) {
      answers.add(await one.verdict(tokenString).catch(() => "no answer"));
      await delay(2);
    }
  });
  const stop = async () => {
    stopped = true;
    await Promise.all(loops);
    return answers;
  };
  return { stop };
}

/** The audit rows of changes that were redone since the last restore. */
async function replayed({ database }: Place, since: Date): Promise<{ rows: { target: string }[] }> {
  const sql = new pg.Client(server.url.replace(/sallyport$/, database));
  await sql.connect();
  try {
    return await sql.query("select target from sallyport.audit where metadata ? 'replayed' and at > $1", [since]);
  } finally {
    await sql.end();
  }
}

/** Asks until the expected answer comes: an instance needs a moment to notice a change of its database. */
async function until(expected: string, ask: () => Promise<string>): Promise<void> {
  let last = "";
  for (const end = performance.now() + BACK_MS; performance.now() < end; await delay(30)) {
    last = await ask().catch((error: Error) => error.message);
    if (last === expected) return;
  }
  expect(last).toBe(expected);
}

async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (const end = performance.now() + BACK_MS; ; await delay(100)) {
    const result = await work().catch((error) => {
      if (performance.now() > end) throw error;
    });
    if (result !== undefined) return result;
  }
}

/**
 * Mints X, dumps the database, revokes others, reads X at a position that will be used again, restores, revokes X.
 * `remembered`: the instances live through the restore, and remember what the database lost.
 */
async function story(
  way: (typeof WAYS)[number],
  place: Place,
  adminToken: string,
  instances: () => readonly TestSallyport[],
  restored: (restore: () => Promise<void>) => Promise<void>,
  remembered: boolean,
) {
  const admin = () => instances()[0]!.as(adminToken).tokens;
  const revoke = (id: string) => patiently(() => admin().revokeToken({ target: { case: "id", value: id } }));
  const mint = () => patiently(() => instances()[0]!.createToken({}, instances()[0]!.as(adminToken)));
  const all = (expected: string, tokenString: string) =>
    Promise.all(instances().map((one) => until(expected, () => one.verdict(tokenString))));
  const [x, y, z] = [await mint(), await mint(), await mint()];
  await all("ALLOW", z.tokenString);

  const restore = await way.keep(place);
  for (const { id } of [y, z]) await revoke(id);
  await all("INVALID_TOKEN", z.tokenString);
  // Read for the first time, so it lies in Redis with the last position.
  await all("ALLOW", x.tokenString);
  await delay(50);
  if (remembered) {
    // What was revoked since the dump is asked for all the time: no instance allows it, not even once.
    const since = new Date();
    const asking = asked(instances(), z.tokenString);
    await restored(restore);
    await all("ALLOW", x.tokenString);
    await all("INVALID_TOKEN", y.tokenString);
    expect([...(await asking.stop())].sort()).not.toContain("ALLOW");
    const { rows } = await replayed(place, since);
    expect(rows.map(({ target }) => target).sort()).toEqual([`token:${y.id}`, `token:${z.id}`].sort());
  } else {
    await restored(restore);
    // Nobody remembers, so tokens that were revoked since the dump live again. This is a backup's limit.
    await all("ALLOW", z.tokenString);
    await all("ALLOW", x.tokenString);
  }

  const { effect } = await revoke(x.id);
  const verdicts = await Promise.all(instances().flatMap((one) => [1, 2, 3].map(() => one.verdict(x.tokenString))));
  expect(verdicts, `after OK of position ${effect?.position}`).toEqual(verdicts.map(() => "INVALID_TOKEN"));
  // All instances acknowledge a change, as before.
  await patiently(async () => ((await revoke(z.id)).effect?.mode === EffectMode.ACKED ? true : undefined));
}

describe.skipIf(!redisIsHere)(
  "a token that was restored and then revoked is refused everywhere at once (with redis-server)",
  () => {
    describe.for(["running", "stopped"] as const)("with instances that %s", (when) => {
      let parts: Awaited<ReturnType<typeof deployment>>;
      let instances: TestSallyport[];
      beforeAll(async () => {
        parts = await deployment();
        instances = await Promise.all(when === "running" ? [parts.start(), parts.start()] : [parts.start()]);
      });
      afterAll(() => Promise.all((instances ?? []).map((one) => one.stop().catch(() => {}))));

      test.for(WAYS.map((way) => [way.name, way] as const))("%s", { timeout: 90_000 }, async ([, way], { skip }) => {
        skip(way.programs && !hasPostgres(15), "no client programs of this version");
        const { place, adminToken, start } = parts;
        await story(
          way,
          place,
          adminToken,
          () => instances,
          async (restore) => {
            if (when === "running") return restore();
            // The new instance has no row of its own, and takes those that it finds in Redis.
            await instances[0]!.halt();
            await restore();
            instances = [await start()];
          },
          when === "running",
        );
      });
    });
  },
);
