import { expect, test } from "vitest";
import { Postgres } from "../../src/postgres/pool.ts";
import { PostgresUsageStore } from "../../src/postgres/usage-store.ts";
import { byHand, makeTokens, migrated } from "./migrated.ts";

const T0 = Date.UTC(2026, 0, 1);

test("of the uses that several instances store, the latest stays, with the last known address, and all counts add", async () => {
  const database = await migrated();
  const client = await byHand(database.url);
  const db = new Postgres({
    url: database.url,
    maxConnections: 1,
    applicationName: "test",
    onTrouble: () => {},
  });
  try {
    const store = new PostgresUsageStore(db);
    const [tokenId = "", other = ""] = await makeTokens(client, 2);
    const used = async (id = tokenId) =>
      (
        await client.query(
          "select last_use_time as time, last_use_address as address, use_count as count from sallyport.token_usage where token_id = $1",
          [id],
        )
      ).rows[0];
    await store.flush([{ tokenId, time: T0 + 5_000, address: "203.0.113.5", count: 3 }]);
    expect(await used()).toEqual({ time: T0 + 5_000, address: "203.0.113.5", count: 3 });
    // One that was slower to store what it saw before; beside it, one for another token.
    await store.flush([
      { tokenId, time: T0 + 4_000, address: "203.0.113.4", count: 2 },
      { tokenId: other, time: T0 + 4_000, address: "", count: 1 },
    ]);
    expect(await used()).toEqual({ time: T0 + 5_000, address: "203.0.113.5", count: 5 });
    expect(await used(other)).toEqual({ time: T0 + 4_000, address: "", count: 1 });
    // A use whose address nobody told.
    await store.flush([{ tokenId, time: T0 + 6_000, address: "", count: 4 }]);
    expect(await used()).toEqual({ time: T0 + 6_000, address: "203.0.113.5", count: 9 });
    await store.flush([{ tokenId, time: T0 + 7_000, address: "203.0.113.7", count: 5 }]);
    expect(await used()).toEqual({ time: T0 + 7_000, address: "203.0.113.7", count: 14 });
  } finally {
    await db.close();
    await client.end();
    await database.drop();
  }
});
