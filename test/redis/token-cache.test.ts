import { createHash, randomBytes } from "node:crypto";
import { Redis } from "ioredis";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { Keyring } from "../../src/domain/keyring.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import type { RedisTokenCache } from "../../src/redis/token-cache.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { EPOCH, snapshot } from "../support/token-snapshot.ts";
import { openCache, PATIENT } from "./fixture.ts";

let server: RedisServer;
let hand: Redis;
beforeAll(async () => {
  server = await startRedis();
  hand = new Redis(server.url);
});
afterAll(async () => {
  hand?.disconnect();
  await server?.stop();
});
beforeEach(() => hand.flushall());

async function open(keys?: Keyring) {
  const opened = openCache(server.url, PATIENT, keys);
  await opened.ready;
  return opened;
}

const digest = (i: number) => createHash("sha256").update(String(i)).digest("binary");

/** Fills and waits until Redis shows the entry, because nothing awaits `fill` itself. */
async function filled(cache: RedisTokenCache, m: TokenSnapshot) {
  cache.fill(m);
  await expect.poll(() => cache.get(m.digest, m.version.epoch)).toMatchObject({ version: m.version });
}

describe("entries of the cache", () => {
  test("a filled entry comes back only under its digest and epoch", async () => {
    const { cache } = await open();
    const m = snapshot(7, {
      digest: digest(1),
      scopes: ["a", "b"],
      audiences: ["x"],
      allowedCidrs: ["10.0.0.0/8"],
      annotations: { team: "é", ["__proto__"]: "p" },
      notBefore: 5,
      expire: 9,
      rotated: true,
      disabled: true,
      principalState: "DISABLED",
      parent: { digest: digest(2), audiences: ["x"], allowedCidrs: [], revoked: true, disabled: false, cut: true },
    });
    await filled(cache, m);
    expect(await cache.get(m.digest, EPOCH)).toEqual(m);
    expect(await cache.get(digest(3), EPOCH)).toBeUndefined();
    expect(await cache.get(m.digest, "1/i/101")).toBeUndefined();
  });

  test("neither name nor value shows a digest, an id or a principal", async () => {
    const { cache } = await open();
    const m = snapshot(7, { digest: digest(1) });
    await filled(cache, m);
    const [key] = await hand.keys("*");
    const value = await hand.getBuffer(key!);
    const all = Buffer.concat([Buffer.from(key!), value!]);
    const bytes = Buffer.from(m.digest, "latin1");
    for (const form of [bytes, bytes.toString("hex"), bytes.toString("base64url"), m.id, m.principal, m.hint]) {
      expect(all.includes(form)).toBe(false);
    }
    expect(value!.toString("latin1", 0, 16)).toBe("0000000000000007");
  });

  test("a later position stays whichever fill comes last; an equal one is written again", async () => {
    const { cache } = await open();
    const at = (n: number, over: Partial<TokenSnapshot> = {}) => snapshot(n, { digest: digest(1), ...over });
    await filled(cache, at(9));
    cache.fill(at(8, { scopes: ["older"] }));
    cache.fill(at(9, { scopes: ["again"] }));
    await expect.poll(() => cache.get(digest(1), EPOCH)).toMatchObject({ scopes: ["again"] });
    cache.fill(at(10));
    cache.fill(at(9));
    await expect.poll(() => cache.get(digest(1), EPOCH)).toMatchObject({ version: { position: 10 } });
    expect((await cache.get(digest(1), EPOCH))?.version.position).toBe(10);
  });

  test("the lifetime is absolute: use does not prolong it", async () => {
    const { cache } = await open();
    const m = snapshot(7, { digest: digest(1) });
    await filled(cache, m);
    const [key] = await hand.keys("*");
    await hand.pexpire(key!, 5_000);
    for (let i = 0; i < 5; i++) expect(await cache.get(m.digest, EPOCH)).toBeDefined();
    expect(await hand.pttl(key!)).toBeLessThanOrEqual(5_000);
    await hand.del(key!);
    await filled(cache, m);
    expect(await hand.pttl(key!)).toBeGreaterThan(50_000);
    expect(await hand.pttl(key!)).toBeLessThanOrEqual(60_000);
  });

  test("entries under another current pepper are misses, without an alarm", async () => {
    const keys = { "1": randomBytes(32).toString("base64"), "2": randomBytes(32).toString("base64") };
    const one = await open(new Keyring("1", keys));
    const two = await open(new Keyring("2", keys));
    const m = snapshot(7, { digest: digest(1) });
    await filled(one.cache, m);
    expect(await two.cache.get(m.digest, EPOCH)).toBeUndefined();
    await filled(two.cache, m);
    expect([...one.journal.alarms, ...two.journal.alarms]).toEqual([]);
  });

  test.each([
    ["scripts", ["+eval", "+evalsha"]],
    ["plain SET where scripts are forbidden", []],
  ])("a user with its prefix and few commands is enough: %s", async (_, more) => {
    await hand.call(
      "ACL",
      "SETUSER",
      "few",
      "reset",
      "on",
      ">pw",
      "~sallyport:*",
      "&sallyport:*",
      "+get",
      "+set",
      ...more,
    );
    onTestFinished(async () => void (await hand.call("ACL", "DELUSER", "few")));
    const { cache, ready, journal } = openCache(server.url.replace("redis://", "redis://few:pw@"), PATIENT);
    await ready;
    const m = snapshot(7, { digest: digest(1) });
    await filled(cache, m);
    await filled(cache, snapshot(8, { digest: digest(1) }));
    expect(journal.lines).toEqual([]);
  });
});

describe("a malicious Redis", () => {
  // A cache is asked for one of 40 tokens, revoked at position n = 100. Whatever Redis returns, only values open that
  // were sealed for this very token and epoch. An older entry of the token opens with its version, and the use rule
  // refuses it.
  test("cannot forge an entry: 10,000 tries with poisoned, swapped, flipped, truncated and foreign values", async () => {
    const { cache, journal } = await open();
    const foreign = await open();
    const tokens = Array.from({ length: 40 }, (_, i) =>
      snapshot(100, { digest: digest(i), id: `tok_${i}`, revoked: true }),
    );
    const live = (m: TokenSnapshot, n: number) => ({ ...m, revoked: false, version: { epoch: EPOCH, position: n } });
    for (const m of tokens) cache.fill(m);
    await expect.poll(() => hand.dbsize()).toBe(40);
    const keys = new Map<string, string>();
    const values: Buffer[] = [];
    // Finds the key of each token as an adversary could: by deleting one key at a time.
    for (const key of await hand.keys("*")) {
      const value = (await hand.getBuffer(key))!;
      values.push(value);
      await hand.del(key);
      const missed = await Promise.all(tokens.map(async (m) => ((await cache.get(m.digest, EPOCH)) ? "" : m.digest)));
      keys.set(missed.find((d) => d !== "")!, key);
      await hand.set(key, value);
    }
    expect(keys.size).toBe(40);
    // An old entry of each token, from before its revocation, and entries that another pepper sealed.
    const old = new Map<string, Buffer>();
    for (const m of tokens) {
      await hand.del(keys.get(m.digest)!);
      await filled(cache, live(m, 50));
      old.set(m.digest, (await hand.getBuffer(keys.get(m.digest)!))!);
      foreign.cache.fill(live(m, 200));
    }
    await expect.poll(() => hand.dbsize()).toBe(80);
    const mine = new Set(keys.values());
    for (const key of await hand.keys("*")) if (!mine.has(key)) values.push((await hand.getBuffer(key))!);
    const pick = <T>(of: readonly T[]) => of[Math.floor(Math.random() * of.length)]!;

    const forge = (m: TokenSnapshot): Buffer => {
      const own = Buffer.from(old.get(m.digest)!);
      const other = pick([...old].filter(([d]) => d !== m.digest))[1];
      const flipped = Buffer.from(own);
      flipped[Math.floor(Math.random() * own.length)]! ^= 1 << Math.floor(Math.random() * 8);
      return pick<() => Buffer>([
        () => randomBytes(Math.floor(Math.random() * 400)),
        () => flipped,
        () => Buffer.concat([Buffer.from("0000000000000999"), own.subarray(16)]),
        () => other,
        () => pick(values.filter((value) => !value.equals(own) && value !== own)),
        () => own.subarray(0, Math.floor(Math.random() * own.length)),
        () => Buffer.concat([own, randomBytes(1 + Math.floor(Math.random() * 20))]),
        () => Buffer.concat([own.subarray(0, 22), other.subarray(22)]),
        () => Buffer.from(JSON.stringify({ ...m, revoked: false })),
      ])();
    };
    let forged = 0;
    let replayed = 0;
    const tries = 10_000;
    for (let done = 0; done < tries; done += tokens.length) {
      const sent = tokens.map((m) => (Math.random() < 0.05 ? old.get(m.digest)! : forge(m)));
      await Promise.all(tokens.map((m, i) => hand.set(keys.get(m.digest)!, sent[i]!)));
      const got = await Promise.all(tokens.map((m) => cache.get(m.digest, EPOCH)));
      for (const [i, found] of got.entries()) {
        const m = tokens[i]!;
        if (found === undefined) continue;
        const genuine = found.digest === m.digest && found.id === m.id;
        if (genuine && !found.revoked && found.version.position === 50 && sent[i]!.equals(old.get(m.digest)!))
          replayed++;
        else if (!(genuine && found.revoked && found.version.position === 100)) forged++;
      }
    }
    expect(forged).toBe(0);
    // The replays did open, so the tries above reached the seal.
    expect(replayed).toBeGreaterThan(100);
    expect(journal.alarms.length).toBeGreaterThan(0);
    expect(journal.alarms.length).toBeLessThan(60);
  }, 60_000);

  test("keys of another type are misses, and the next fill replaces them", async () => {
    const { cache } = await open();
    const m = snapshot(7, { digest: digest(1) });
    await filled(cache, m);
    const [key] = await hand.keys("*");
    await hand.del(key!);
    await hand.lpush(key!, "x");
    expect(await cache.get(m.digest, EPOCH)).toBeUndefined();
    await filled(cache, m);
  });

  test("an entry without an expiry, far in the future, blocks only its own key", async () => {
    const { cache, journal } = await open();
    const m = snapshot(7, { digest: digest(1) });
    await filled(cache, m);
    const [key] = await hand.keys("*");
    await hand.set(key!, "9999999999999999 and junk");
    cache.fill(m);
    expect(await cache.get(m.digest, EPOCH)).toBeUndefined();
    expect(journal.alarms).toEqual([{ entries: 1 }]);
    await filled(cache, snapshot(7, { digest: digest(2) }));
  });
});

describe("fills of the cache", () => {
  test("at most 256 fills run at a time against a Redis that does not answer", async () => {
    const own = await startRedis();
    onTestFinished(() => own.stop());
    const { cache, ready } = openCache(own.url);
    await ready;
    await filled(cache, snapshot(7, { digest: digest(0) }));
    own.sigstop();
    for (let i = 1; i <= 1000; i++) cache.fill(snapshot(7, { digest: digest(i) }));
    await expect.poll(() => cache.ready).toBe(false);
    own.sigcont();
    // Redis executes the abandoned ones late, which does no harm.
    await expect.poll(() => own.cli("DBSIZE")).toBe(257);
    await expect.poll(() => cache.get(digest(256), EPOCH), { timeout: 3000 }).toBeDefined();
    expect(await cache.get(digest(257), EPOCH)).toBeUndefined();
  });
});
