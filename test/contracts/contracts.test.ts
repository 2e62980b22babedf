import { describe, expect, onTestFinished, test } from "vitest";
import { CLAUSES } from "./clauses.ts";
import { postgresStores } from "./postgres-stores.ts";
import { simulatedStores } from "./simulated-stores.ts";
import type { Stores } from "./stores.ts";

/*
 * One contract for the store ports that the simulation doubles. What the simulation proves is worth as much as its
 * doubles are true.
 */
describe.each<[string, () => Promise<Stores>]>([
  ["PostgreSQL", postgresStores],
  ["the simulation's doubles", simulatedStores],
])("the store ports on %s", (_, make) => {
  test.each(CLAUSES)("$name", async ({ holds }) => {
    const stores = await make();
    onTestFinished(() => stores.close());
    await holds(stores);
  });
});

/** Doubles that lie, each in one thing. */
const LIARS: Readonly<Record<string, () => Promise<Stores>>> = {
  "the head runs ahead of what was committed": () => simulatedStores({ sequence: true }),
  "anybody writes a row of the registry": () => simulatedStores({ rowsOfAnybody: true }),
  "rows are pruned without their floor": () => simulatedStores({ pruneWithoutFloor: true }),
  "reads show the first state for ever": lying((stores) => {
    const seen = new Map<string, ReturnType<Stores["reader"]["read"]>>();
    const read: Stores["reader"]["read"] = (digest, timeoutMs) => {
      const first = seen.get(digest) ?? stores.reader.read(digest, timeoutMs);
      seen.set(digest, first);
      return first;
    };
    // The state before any change is what it knows.
    const warm = Promise.all(Object.values(stores.tokens).map(({ digest }) => read(digest, 400)));
    return { reader: { ...stores.reader, read: (digest, ms) => warm.then(() => read(digest, ms)) } };
  }),
  "a read does not see the parent": lying(({ reader }) => ({
    reader: {
      reconnect: () => {},
      read: async (digest, ms) => {
        const { snapshot, ...evidence } = await reader.read(digest, ms);
        return snapshot === undefined ? evidence : { ...evidence, snapshot: { ...snapshot, parent: undefined } };
      },
    },
  })),
  "a snapshot claims a later position": lying(({ reader }) => ({
    reader: {
      reconnect: () => {},
      read: async (digest, ms) => {
        const reading = await reader.read(digest, ms);
        return { ...reading, position: reading.position + 1 };
      },
    },
  })),
  "a revocation that was not done is told as done": lying(({ authority, log }) => ({
    authority: {
      ...authority,
      revokeToken: async () => ({ value: undefined as never, ...(await log.readEpoch()) }),
    },
  })),
  "the log forgets the newest row of a page": lying(({ log }) => ({
    log: inherited(log, {
      poll: async (...args) => {
        const page = await log.poll(...args);
        return { ...page, rows: page.rows.filter(({ position }) => position < page.position) };
      },
    }),
  })),
  "every registration is admitted": lying(({ log }) => ({
    log: inherited(log, { register: (entry) => log.register(entry).then(() => true) }),
  })),
  "nobody is ever waited for": lying(({ log }) => ({
    log: inherited(log, {
      unacknowledged: async (...args) => ({ ...(await log.unacknowledged(...args)), missing: [] }),
    }),
  })),
  "a reaped process still holds its lease": lying(({ log }) => ({
    log: inherited(log, { poll: async (...args) => ({ ...(await log.poll(...args)), ownRowLive: true }) }),
  })),
  "acknowledgements are lost": lying(({ log }) => ({ log: inherited(log, { ack: async () => {} }) })),
  "an epoch is settled from the start": lying(({ log }) => ({
    log: inherited(log, {
      unacknowledged: async (epoch, n) => ({ ...(await log.unacknowledged(epoch, n)), settled: epoch }),
    }),
  })),
  "an epoch settles under any name": lying(({ log }) => ({
    log: inherited(log, {
      markSettled: async (epoch) => log.markSettled(epoch, (await log.readEpoch()).names),
    }),
  })),
  "what is lost is only noted": lying(({ log }) => ({
    log: inherited(log, { redoLost: async () => undefined }),
  })),
  "an epoch is proven whatever is pending": lying(({ log }) => ({ log: inherited(log, { prove: async () => true }) })),
  "every epoch is proven": lying(({ log }) => ({
    log: inherited(log, { poll: async (...args) => ({ ...(await log.poll(...args)), pending: false }) }),
  })),
  "no incarnation is drawn": lying((stores) => ({ log: inherited(stores.log, { draw: async () => {} }) })),
};

function inherited(log: Stores["log"], over: Partial<Stores["log"]>): Stores["log"] {
  return new Proxy(log, { get: (target, name) => over[name as keyof typeof over] ?? target[name as keyof typeof log] });
}

function lying(lie: (stores: Stores) => Partial<Stores>): () => Promise<Stores> {
  return async () => {
    const stores = await simulatedStores();
    return { ...stores, ...lie(stores) };
  };
}

describe("the contract finds a double that lies", () => {
  test.each(Object.entries(LIARS))("%s", async (_, make) => {
    const broken: string[] = [];
    for (const { name, holds } of CLAUSES) await holds(await make()).catch(() => broken.push(name));
    expect(broken).not.toEqual([]);
    // A lie is about one thing: where every clause breaks, the double did not even run.
    expect(broken.length).toBeLessThan(CLAUSES.length);
  });
});
