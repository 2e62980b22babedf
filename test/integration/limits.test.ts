import { afterAll, beforeAll, expect, test } from "vitest";
import { failure, outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({
    config: {
      limits: { mint_per_address_per_hour: 3, mint_per_principal_per_day: 30, rotate_per_principal_per_day: 5 },
      profiles: {
        pat: { max_live_per_principal: 20 },
        bot: { max_live_per_principal: 0 },
        svc: { max_live_per_principal: 2 },
      },
    },
  });
});
afterAll(() => sallyport?.stop());

/** Fifty mints at once, and the outcome of each. */
async function fifty(request: Parameters<TestSallyport["createToken"]>[0]) {
  // A mint that waited too long for a lock did nothing, and is repeated, as a client would.
  const mint = async (): Promise<string> => {
    const end = await outcome(sallyport.createToken(request));
    return end === "NOT_DONE" ? mint() : end;
  };
  const ends = await Promise.all(Array.from({ length: 50 }, mint));
  return { made: ends.filter((end) => end === "OK").length, refused: new Set(ends.filter((end) => end !== "OK")) };
}

/** Each run has its own, so that a retry does not find the first try's usage. */
let runs = 0;
let live = "";
let spent = "";

test("of 50 mints at once exactly as many as the limit succeed, and all others name the limit", async () => {
  const principal = `user:live${++runs}`;
  live = principal;
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

test("a revoked token makes room for another, and so does an expired one", async () => {
  const { tokens } = await sallyport.admin.tokens.listTokens({ principal: live, pageSize: 1 });
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: tokens[0]!.id }, noWait: true });
  expect(await outcome(sallyport.createToken({ principal: live }))).toBe("OK");
  expect(await outcome(sallyport.createToken({ principal: live }))).toBe("LIMIT_EXCEEDED");
});

test("of 50 mints at once exactly as many as a day allows succeed; refused ones do not count", async () => {
  const principal = `bot:day${++runs}`;
  spent = principal;
  await sallyport.registered(principal);
  expect(await fifty({ profile: "bot", principal })).toEqual({
    made: 30,
    refused: new Set(["LIMIT_EXCEEDED"]),
  });
  const refused = await failure(sallyport.createToken({ profile: "bot", principal }));
  expect(refused.retryMs).toBeGreaterThan(0);
  expect(refused.retryMs).toBeLessThanOrEqual(86_400_000);
  const [row] = await sallyport.sql<{ count: number }>(
    "select sum(count)::int as count from sallyport.mint_counts where key = $1",
    [`p default ${principal}`],
  );
  expect(row?.count).toBe(30);
});

test("a limit belongs to one principal: a principal of the same name in another tenant does not count", async () => {
  await sallyport.admin.tenants.createTenant({ tenant: { id: "acme" } });
  await sallyport.registered(spent, "acme");
  expect(await outcome(sallyport.createToken({ tenant: "acme", profile: "bot", principal: spent }))).toBe("OK");
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

test("rotations by callers other than administrators have their own limit, and count as live tokens during an overlap", async () => {
  await sallyport.registered("service:turns");
  const made = () => sallyport.createToken({ profile: "svc", principal: "service:turns", displayName: "" });
  const rotate = (by: string, id: string, overlap = 0n) =>
    sallyport.as(by).tokens.rotateToken({ id, overlap: { seconds: overlap, nanos: 0 }, noWait: true });
  let { tokenString, id } = await made();
  const turn = async (overlap?: bigint) => {
    const done = await rotate(tokenString, id, overlap);
    ({ tokenString, id } = { tokenString: done.tokenString, id: done.token!.id });
  };
  // Two may live: the second overlap finds two of them.
  await turn(3600n);
  expect(await outcome(rotate(tokenString, id, 3600n))).toBe("LIMIT_EXCEEDED");
  expect(await outcome(made())).toBe("LIMIT_EXCEEDED");
  for (let i = 0; i < 4; i++) await turn();
  const refused = await failure(rotate(tokenString, id));
  expect(refused).toMatchObject({ reason: "LIMIT_EXCEEDED", message: expect.stringContaining("rotations") });
  expect(refused.retryMs).toBeGreaterThan(80_000_000);
  for (let i = 0; i < 3; i++) {
    const done = await rotate(sallyport.adminToken, id, 3600n);
    ({ tokenString, id } = { tokenString: done.tokenString, id: done.token!.id });
  }
  // The window slides: tokens older than a day no longer count.
  await sallyport.sql(
    "update sallyport.mint_counts set window_start = window_start - interval '25 hours' where key like 'r %'",
  );
  expect(await outcome(rotate(tokenString, id))).toBe("OK");
});

test("a window slides: tokens created before the full hour count after it", async () => {
  const day = async (ago: string) =>
    sallyport.sql("update sallyport.mint_counts set window_start = date_trunc('day', now()) - $1::interval", [ago]);
  await sallyport.registered("bot:slides");
  const mint = () => outcome(sallyport.createToken({ profile: "bot", principal: "bot:slides", displayName: "" }));
  for (let i = 0; i < 30; i++) expect(await mint()).toBe("OK");
  await sallyport.sql("delete from sallyport.mint_counts where key <> 'p default bot:slides'");
  await day("1 minute");
  expect(await mint()).toBe("LIMIT_EXCEEDED");
  await day("26 hours");
  expect(await mint()).toBe("OK");
});
