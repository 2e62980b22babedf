import { expect, test } from "vitest";
import { LastUse } from "../../src/validation/last-use.ts";

type Stored = { tokenId: string; time: number; address: string };

function usage(flush: (uses: readonly Stored[]) => Promise<void>) {
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

test("many uses of a token become one row with the last time and the last known address", async () => {
  const stored: Stored[] = [];
  const { used, use, tick } = usage(async (uses) => void stored.push(...uses));
  use("tok_1", "203.0.113.7");
  tick();
  use("tok_1", "");
  use("tok_2", "2001:db8::1");
  await used.flush();
  expect(stored).toEqual([
    { tokenId: "tok_1", time: 1001, address: "203.0.113.7" },
    { tokenId: "tok_2", time: 1001, address: "2001:db8::1" },
  ]);
  await used.flush();
  expect(stored).toHaveLength(2);
});

test("a text that is no address is never stored", async () => {
  const stored: Stored[] = [];
  const { used, use } = usage(async (uses) => void stored.push(...uses));
  for (const text of ["\0", "203.0.113.7\r\n", "x".repeat(100_000), "fe80::1%eth0", "not one"]) {
    use("tok_1", text);
    use("tok_2", "192.0.2.1");
    use("tok_2", text);
  }
  await used.flush();
  expect(stored.map(({ address }) => address)).toEqual(["", "192.0.2.1"]);
});

test("a failed flush is reported and the next one works; two flushes at once are one", async () => {
  let fail = true;
  const rounds: number[] = [];
  const { used, use, troubles } = usage(async (uses) => {
    if (fail) throw new Error("away");
    rounds.push(uses.length);
  });
  use("tok_1", "");
  await Promise.all([used.flush(), used.flush()]);
  expect(troubles).toEqual(["last_use_write_failed"]);
  fail = false;
  use("tok_2", "");
  await used.stop();
  expect(rounds).toEqual([1]);
});

test("memory is limited: of 60,000 tokens 50,000 are kept, and stored a thousand at a time", async () => {
  const sizes: number[] = [];
  const { used, use } = usage(async (uses) => void sizes.push(uses.length));
  for (let i = 0; i < 60_000; i++) use(`tok_${i}`, "");
  await used.flush();
  expect(sizes).toEqual(Array.from({ length: 50 }, () => 1000));
});
