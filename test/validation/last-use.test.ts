import { expect, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { LastUse } from "../../src/validation/last-use.ts";
import type { StoredUse } from "../../src/validation/ports.ts";

function usage(flush: (uses: readonly StoredUse[]) => Promise<void>) {
  const troubles: string[] = [];
  let now = 1000;
  const used = new LastUse(
    {
      store: { flush },
      timers: { after: () => () => {} },
      events: { trouble: (what: string) => troubles.push(what) } as never,
      // The two clocks of a process tell different times.
      clock: { mono: () => now - 500 },
      now: () => now,
    },
    10_000,
  );
  const use = (id: string, clientAddress: string) => used.used(id, { clientAddress }, now - 500);
  return { used, use, troubles, tick: () => (now += 1) };
}

test("many uses of a token become one row with their count, the last time and the last known address", async () => {
  const stored: StoredUse[] = [];
  const { used, use, tick } = usage(async (uses) => void stored.push(...uses));
  use("tok_1", "203.0.113.7");
  tick();
  use("tok_1", "");
  use("tok_2", "2001:db8::1");
  await used.flush();
  expect(stored).toEqual([
    { tokenId: "tok_1", time: 1001, address: "203.0.113.7", count: 2 },
    { tokenId: "tok_2", time: 1001, address: "2001:db8::1", count: 1 },
  ]);
  await used.flush();
  expect(stored).toHaveLength(2);
});

test("a text that is no address is never stored", async () => {
  const stored: StoredUse[] = [];
  const { used, use } = usage(async (uses) => void stored.push(...uses));
  for (const text of ["\0", "203.0.113.7\r\n", "x".repeat(100_000), "fe80::1%eth0", "not one"]) {
    use("tok_1", text);
    use("tok_2", "192.0.2.1");
    use("tok_2", text);
  }
  await used.flush();
  expect(stored.map(({ address }) => address)).toEqual(["", "192.0.2.1"]);
});

test("a write that failed is reported, and stored with the next one; two flushes at once are one", async () => {
  let fail = true;
  const rounds: (readonly StoredUse[])[] = [];
  const { used, use, troubles, tick } = usage(async (uses) => {
    if (fail) throw new AppError("STORE_UNAVAILABLE", "away");
    rounds.push(uses);
  });
  use("tok_1", "203.0.113.7");
  use("tok_2", "");
  await Promise.all([used.flush(), used.flush()]);
  expect(troubles).toEqual(["last_use_write_failed"]);
  fail = false;
  tick();
  use("tok_1", "");
  await used.stop();
  expect(rounds).toEqual([
    [
      { tokenId: "tok_1", time: 1001, address: "203.0.113.7", count: 2 },
      { tokenId: "tok_2", time: 1000, address: "", count: 1 },
    ],
  ]);
});

test("no use is counted twice: a write whose outcome is unknown is not repeated, those behind it are", async () => {
  let answer: "ok" | "unknown" = "unknown";
  let writes = 0;
  const stored: StoredUse[] = [];
  const { used, use, troubles } = usage(async (uses) => {
    writes++;
    if (answer === "unknown") throw new AppError("OUTCOME_UNKNOWN", "no answer");
    stored.push(...uses);
  });
  for (let i = 0; i < 1500; i++) use(`tok_${i}`, "");
  await used.flush();
  expect([writes, troubles]).toEqual([1, ["last_use_write_failed"]]);
  answer = "ok";
  use("tok_0", "");
  await used.flush();
  expect(stored).toHaveLength(501);
  expect(stored.find(({ tokenId }) => tokenId === "tok_0")?.count).toBe(1);
  expect(stored.some(({ tokenId }) => tokenId === "tok_999")).toBe(false);
});

test("memory is limited, and nothing is lost: of 60,000 tokens the first 50,000 are stored at once", async () => {
  const sizes: number[] = [];
  const { used, use, troubles } = usage(async (uses) => void sizes.push(uses.length));
  for (let i = 0; i < 60_000; i++) use(`tok_${i}`, "");
  // The first write is under way.
  expect(sizes).toEqual([1000]);
  await used.stop();
  expect(sizes).toEqual(Array.from({ length: 60 }, () => 1000));
  expect(troubles).toEqual([]);
});

test("while the database is away, 50,000 tokens are kept, the others are reported, and only the timer tries again", async () => {
  let away = true;
  let writes = 0;
  let stored = 0;
  const { used, use, troubles } = usage(async (uses) => {
    writes++;
    if (away) throw new AppError("STORE_UNAVAILABLE", "away");
    stored += uses.length;
  });
  for (let i = 0; i < 50_000; i++) use(`tok_${i}`, "");
  await used.flush();
  for (let i = 50_000; i < 60_000; i++) use(`tok_${i}`, "");
  await used.flush();
  expect([writes, troubles.length]).toEqual([2, 3]);
  away = false;
  await used.flush();
  expect(stored).toBe(50_000);
});
