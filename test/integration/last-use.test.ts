import { timestampMs } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { TestSallyport } from "../support/sallyport.ts";

test("uses are stored by the stop at the latest, with count, time and address, and a hostile address harms no other row", async () => {
  const first = await TestSallyport.start();
  const { tokenString, id } = await first.createToken();
  const hostile = await first.createToken();
  const unused = await first.createToken();
  const started = Date.now();
  await first.validate(hostile.tokenString, { context: { clientAddress: "\0" } });
  await first.validate(tokenString, { context: { clientAddress: "203.0.113.7" } });
  for (let i = 0; i < 4; i++) await first.validate(tokenString);
  await first.validate(unused.tokenString, { requiredScopes: ["never:held"] });
  // No row is written while validations continue.
  expect(await first.sql("select from sallyport.token_usage")).toHaveLength(0);
  const positions = await first.sql("select n from sallyport.rev_head");

  const second = await TestSallyport.start({ database: first.database, keyring: first.keyring });
  const admin = second.as(first.adminToken);
  // The database is dropped with its owner, after both are gone.
  await first.halt();
  const get = async (of: string) => (await admin.tokens.getToken({ id: of })).token!;
  const used = await get(id);
  expect(used.lastUseAddress).toBe("203.0.113.7");
  expect(timestampMs(used.lastUseTime!)).toBeGreaterThan(started - 2000);
  expect(timestampMs(used.lastUseTime!)).toBeLessThan(Date.now() + 2000);
  expect((await get(hostile.id)).lastUseAddress).toBe("");
  expect((await get(hostile.id)).lastUseTime).toBeDefined();
  expect((await get(unused.id)).lastUseTime).toBeUndefined();
  expect([used.useCount, (await get(hostile.id)).useCount, (await get(unused.id)).useCount]).toEqual([5n, 1n, 0n]);
  expect(used.format).toBe("opaque");
  // A use is no change of authority: it takes no position and no revision.
  expect(await second.sql("select n from sallyport.rev_head")).toEqual(positions);
  expect(used.etag).toBe("1");
  await second.stop();
  await first.dispose();
});
