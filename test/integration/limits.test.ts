import { afterAll, beforeAll, expect, test } from "vitest";
import { failure, outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({
    config: {
      limits: { mint_per_address_per_hour: 3, mint_per_principal_per_day: 30 },
      profiles: { pat: { max_live_per_principal: 20 }, bot: { max_live_per_principal: 0 } },
    },
  });
  await sallyport.registered("bot:ci");
});
afterAll(() => sallyport?.stop());

/** Fifty mints at once; how each ended. */
async function fifty(request: Parameters<TestSallyport["createToken"]>[0]) {
  const ends = await Promise.all(Array.from({ length: 50 }, () => outcome(sallyport.createToken(request))));
  return { made: ends.filter((end) => end === "OK").length, refused: new Set(ends.filter((end) => end !== "OK")) };
}

test("of 50 mints at once exactly as many as may live are made, and all others say what the limit is", async () => {
  const principal = "user:live";
  expect(await fifty({ principal })).toEqual({ made: 20, refused: new Set(["LIMIT_EXCEEDED"]) });
  const [count] = await sallyport.sql<{ n: number }>(
    "select count(*)::int as n from sallyport.tokens where principal = $1",
    [principal],
  );
  expect(count?.n).toBe(20);
  const refused = await failure(sallyport.createToken({ principal }));
  expect(refused).toMatchObject({ code: "ResourceExhausted", reason: "LIMIT_EXCEEDED", quota: true });
  expect(refused.message).toContain("at most 20");
  expect(refused.retryMs).toBeGreaterThan(0);
});

test("a revoked token makes room for another, an expired one too", async () => {
  const { tokens } = await sallyport.admin.tokens.listTokens({ principal: "user:live", pageSize: 1 });
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: tokens[0]!.id }, noWait: true });
  expect(await outcome(sallyport.createToken({ principal: "user:live" }))).toBe("OK");
  expect(await outcome(sallyport.createToken({ principal: "user:live" }))).toBe("LIMIT_EXCEEDED");
});

test("of 50 mints at once exactly as many as a day allows are made; refused ones count for nothing", async () => {
  expect(await fifty({ profile: "bot", principal: "bot:ci" })).toEqual({
    made: 30,
    refused: new Set(["LIMIT_EXCEEDED"]),
  });
  const refused = await failure(sallyport.createToken({ profile: "bot", principal: "bot:ci" }));
  expect(refused.retryMs).toBeGreaterThan(0);
  expect(refused.retryMs).toBeLessThanOrEqual(86_400_000);
  const [row] = await sallyport.sql<{ count: number }>(
    "select sum(count)::int as count from sallyport.mint_counts where key = 'p default bot:ci'",
  );
  expect(row?.count).toBe(30);
});

test("a principal's limit is its own: of another tenant's principal of the same name nothing is counted", async () => {
  await sallyport.admin.tenants.createTenant({ tenant: { id: "acme" } });
  await sallyport.registered("bot:ci", "acme");
  expect(await outcome(sallyport.createToken({ tenant: "acme", profile: "bot", principal: "bot:ci" }))).toBe("OK");
});

test("callers from this machine and operators are exempt from the limit per address", async () => {
  const caller = sallyport.as((await sallyport.callerWith(["sallyport.tokens.create"])).tokenString);
  for (let i = 0; i < 5; i++) {
    const org = { profile: "org", principal: `org:many${i}` };
    expect(await outcome(sallyport.createToken(org, caller))).toBe("OK");
    expect(await outcome(sallyport.createToken({ principal: `user:more${i}` }))).toBe("OK");
  }
  expect(await sallyport.sql("select from sallyport.mint_counts where key like 'a %'")).toHaveLength(0);
});
