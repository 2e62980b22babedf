import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { Freshness } from "../../src/domain/freshness.ts";
import { Keyring } from "../../src/domain/keyring.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import { mintTokenString, parseTokenString } from "../../src/domain/token-string.ts";
import { Lookup, type LookupDeps, type LookupOptions } from "../../src/validation/lookup.ts";
import type { Reading } from "../../src/validation/ports.ts";
import { HandTime, recordedEvents, turn } from "../support/hand-time.ts";
import { EPOCH, snapshot } from "../support/token-snapshot.ts";

const keyring = new Keyring("1", { "1": Buffer.alloc(32, 1).toString("base64") });
const OPTIONS: LookupOptions = {
  l1Entries: 1000,
  l1Bytes: 1e6,
  l1TtlMs: 5000,
  l1DeadTtlMs: 5000,
  maxReads: 2,
  maxQueuedReads: 3,
  maxCacheReads: 2,
  readTimeoutMs: 400,
};

function tokenString(): string {
  return mintTokenString("sp_bot", keyring.current).tokenString.reveal();
}

/** A look-up whose store and cache answer when the test says so. */
function fixture(over: Partial<LookupDeps> = {}, options: Partial<LookupOptions> = {}) {
  const time = new HandTime();
  const { events, happened } = recordedEvents();
  const reads: { digest: string; timeoutMs: number; answer: (reading: Partial<Reading>) => void; fail: () => void }[] =
    [];
  let distrusted = 0;
  let woken = 0;
  const freshness = new Freshness(1500);
  freshness.begin(EPOCH, time.clock.mono());
  const reader = {
    read: (digest: string, timeoutMs: number) =>
      new Promise<Reading>((resolve, reject) => {
        const sent = time.clock.mono();
        reads.push({
          digest,
          timeoutMs,
          answer: (over) =>
            resolve({
              ...{ inRecovery: false, epoch: EPOCH, proven: true, position: 5, dbTime: 1e12 },
              ...{ snapshot: snapshot(5, { digest }), sent, received: time.clock.mono() },
              ...over,
            }),
          fail: () => reject(new AppError("STORE_UNAVAILABLE", "gone")),
        });
      }),
    reconnect: () => void distrusted++,
  };
  const deps = { freshness, reader, clock: time.clock, timers: time.timers, events, wake: () => void woken++, ...over };
  const lookup = new Lookup(deps, { ...OPTIONS, ...options });
  const poll = (n = 5, rows: { position: number; key: string }[] = []) => {
    const now = time.clock.mono();
    const page = {
      inRecovery: false,
      epoch: EPOCH,
      position: n,
      dbTime: 1e12,
      ownRowLive: true,
      proven: true,
      floorN: 0,
      rows,
      full: false,
    };
    freshness.apply(page, now, now);
  };
  const find = (text: string, within = 1000) =>
    lookup.find(text, parseTokenString(text, keyring)!, time.clock.mono() + within, (found) =>
      "tier" in found ? `${found.kind} ${found.tier}` : found.kind,
    );
  return { time, happened, reads, freshness, lookup, poll, find, counts: () => ({ distrusted, woken }) };
}

describe("lookup", () => {
  it("answers an L1 hit at once, after one read for all hits", async () => {
    const { poll, find, reads } = fixture();
    poll();
    const text = tokenString();
    const first = find(text);
    await turn();
    reads[0]!.answer({});
    expect(await first).toBe("found store");
    expect(find(text)).toBe("found l1");
    expect(reads).toHaveLength(1);
  });

  it("refuses a forged string at once, without I/O", () => {
    const { poll, find, reads } = fixture();
    poll();
    const text = tokenString();
    const forged = mintTokenString("sp_bot", new Keyring("1", { "1": Buffer.alloc(32, 2).toString("base64") }).current);
    expect(find(forged.tokenString.reveal())).toBe("unknown none");
    expect(reads).toHaveLength(0);
    expect(find(text)).toBeInstanceOf(Promise);
  });

  it("shares one read among all calls that join before it is sent", async () => {
    const { find, reads } = fixture();
    const text = tokenString();
    const all = Promise.all(Array.from({ length: 100 }, () => find(text)));
    await turn();
    expect(reads).toHaveLength(1);
    reads[0]!.answer({});
    expect(new Set(await all)).toEqual(new Set(["found store"]));
  });

  it("without a lease gives all calls that join a sent read one further read together", async () => {
    const { find, reads } = fixture();
    const text = tokenString();
    const first = find(text);
    await turn();
    const joined = Promise.all([find(text), find(text), find(text)]);
    await turn();
    reads[0]!.answer({});
    expect(await first).toBe("found store");
    await turn();
    expect(reads).toHaveLength(2);
    reads[1]!.answer({});
    expect(await joined).toEqual(["found store", "found store", "found store"]);
  });

  it("under a lease gives calls that join a sent read its row, unless a change has come since", async () => {
    const { find, reads, poll } = fixture();
    poll();
    const text = tokenString();
    void find(text);
    await turn();
    const joined = find(text);
    await turn();
    reads[0]!.answer({});
    expect(await joined).toBe("found store");
    const other = tokenString();
    const digest = parseTokenString(other, keyring)!.digest;
    void find(other);
    await turn();
    const late = find(other);
    await turn();
    poll(6, [{ position: 6, key: `t${digest}` }]);
    reads[1]!.answer({ snapshot: snapshot(5, { digest }) });
    await turn();
    expect(reads).toHaveLength(3);
    reads[2]!.answer({ position: 6, snapshot: snapshot(6, { digest, revoked: true }) });
    expect(await late).toBe("found store");
  });

  it("limits the reads at the store and the calls that wait, and sheds the rest at once", async () => {
    const { find, reads, happened } = fixture();
    const answers = Array.from({ length: 8 }, () => find(tokenString()));
    expect(await Promise.all(answers.slice(3))).toEqual(Array(5).fill("undetermined"));
    expect(happened.filter((what) => what === "shed:read")).toHaveLength(5);
    await turn();
    expect(reads).toHaveLength(2);
    reads[0]!.answer({});
    await turn();
    expect(reads).toHaveLength(3);
  });

  it("ends at its deadline, and never sends a read without a waiting call", async () => {
    const { find, reads, time } = fixture({}, { maxReads: 1 });
    const held = find(tokenString(), 300);
    const waits = find(tokenString(), 100);
    await turn();
    // The read's own bound, whoever waits for it: an abandoned read leaves its connection to the others.
    expect(reads[0]!.timeoutMs).toBe(400);
    await time.advance(100);
    expect(await waits).toBe("undetermined");
    reads[0]!.fail();
    expect(await held).toBe("undetermined");
    await time.advance(1);
    expect(reads).toHaveLength(1);
  });

  it("tries one other connection when a server of another epoch answers, wakes the follower, then gives up", async () => {
    const { find, reads, counts, poll } = fixture();
    poll();
    const answer = find(tokenString());
    await turn();
    reads[0]!.answer({ epoch: "2/i/200" });
    await turn();
    reads[1]!.answer({ inRecovery: true });
    expect(await answer).toBe("undetermined");
    expect(reads).toHaveLength(2);
    expect(counts()).toEqual({ distrusted: 2, woken: 2 });
  });

  it("reads again if the read was sent before this epoch was known: a standby that was promoted since may have answered", async () => {
    const { find, reads, freshness, poll, time, counts } = fixture();
    poll();
    const text = tokenString();
    const answer = find(text);
    await turn();
    await time.advance(5);
    freshness.begin("2/i/200", time.clock.mono());
    reads[0]!.answer({ epoch: "2/i/200", snapshot: snapshot(5, { digest: reads[0]!.digest }) });
    await turn();
    expect(counts()).toEqual({ distrusted: 1, woken: 1 });
    reads[1]!.answer({ epoch: "2/i/200", snapshot: undefined });
    expect(await answer).toBe("unknown store");
  });

  it("reads again if a row shows less than was known at its send, and never caches that row", async () => {
    const { find, reads, poll, counts } = fixture();
    poll(9);
    const text = tokenString();
    const answer = find(text);
    await turn();
    reads[0]!.answer({ position: 8 });
    await turn();
    expect(reads).toHaveLength(2);
    reads[1]!.answer({ position: 8 });
    expect(await answer).toBe("undetermined");
    expect(counts()).toEqual({ distrusted: 2, woken: 2 });
    expect(find(text)).toBeInstanceOf(Promise);
  });

  it("accepts a row that shows all that was known at its send, even if a change came meanwhile", async () => {
    const { find, reads, poll } = fixture();
    poll(5);
    const answer = find(tokenString());
    await turn();
    poll(6);
    reads[0]!.answer({ position: 5 });
    expect(await answer).toBe("found store");
    expect(reads).toHaveLength(1);
  });

  it("refuses everything once history went backwards", async () => {
    const { find, poll, freshness } = fixture();
    poll(5);
    poll(4);
    expect(freshness.halted).toBe(true);
    expect(find(tokenString())).toBe("undetermined");
  });

  it("rejects a reading of a standby or of another epoch, reads once more, and then answers UNDETERMINED", async () => {
    const { find, reads, counts } = fixture();
    for (const wrong of [{ inRecovery: true }, { epoch: "another" }]) {
      reads.length = 0;
      const answer = find(tokenString());
      await turn();
      reads[0]!.answer(wrong);
      await turn();
      reads[1]!.answer(wrong);
      expect(await answer).toBe("undetermined");
      expect(reads).toHaveLength(2);
    }
    expect(counts()).toEqual({ distrusted: 4, woken: 4 });
  });

  it("asks Redis only under a lease, once per token at a time, and never waits for a fill", async () => {
    let gets = 0;
    const filled: TokenSnapshot[] = [];
    const text = tokenString();
    const { digest } = parseTokenString(text, keyring)!;
    const cache = {
      ready: true,
      get: async () => {
        gets++;
        await turn();
        return filled[0];
      },
      fill: (of: TokenSnapshot) => void filled.push(of),
    };
    const { find, reads, poll, lookup } = fixture({ cache });
    const bare = find(text);
    await turn();
    reads[0]!.answer({});
    expect(await bare).toBe("found store");
    expect([gets, filled.length]).toEqual([0, 0]);
    poll();
    const missed = find(text);
    await turn();
    await turn();
    await turn();
    reads[1]!.answer({ snapshot: snapshot(5, { digest }) });
    expect(await missed).toBe("found store");
    expect([gets, filled.length]).toEqual([1, 1]);
    lookup.forget();
    expect(await Promise.all([find(text), find(text)])).toEqual(["found l2", "found l2"]);
    expect([gets, reads.length]).toEqual([2, 2]);
  });

  it("keeps an entry no longer than its lifetime, however often it is used", async () => {
    const { find, reads, poll, time } = fixture();
    const text = tokenString();
    poll();
    const first = find(text);
    await turn();
    reads[0]!.answer({});
    await first;
    for (let passed = 0; passed < 5000; passed += 500) {
      expect(find(text)).toBe("found l1");
      await time.advance(500);
      poll();
    }
    await time.advance(1);
    expect(find(text)).toBeInstanceOf(Promise);
  });
});

describe("lookup › memory", () => {
  it("takes at most 600 bytes of the heap for a plain token", async () => {
    const { lookup, reads, find, poll } = fixture({}, { l1Entries: 20_000, l1Bytes: 1e9, maxReads: 1 });
    poll();
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as () => void;
    const count = 20_000;
    const before = heap(gc);
    for (let i = 0; i < count; i++) {
      const answer = find(tokenString());
      await Promise.resolve();
      await turn();
      const { digest, answer: reply } = reads.pop()!;
      // As the driver makes it: every string its own.
      const fresh = JSON.parse(JSON.stringify(snapshot(5, { scopes: ["repo.read", "repo.write"], digest: "" })));
      reply({ snapshot: { ...fresh, digest, version: { epoch: EPOCH, position: 5 }, id: `tok_${i}`.padEnd(26, "0") } });
      await answer;
    }
    expect(lookup.entries).toBe(count);
    const each = (heap(gc) - before) / count;
    expect(each).toBeLessThanOrEqual(600);
  });
});

function heap(gc: () => void): number {
  gc();
  return process.memoryUsage().heapUsed;
}
