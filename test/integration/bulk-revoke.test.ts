import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import pg from "pg";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import type { Selectors } from "../../src/management/ports.ts";
import { failure, outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
  await sallyport.registered("bot:ci");
  await sallyport.admin.tenants.createTenant({ tenant: { id: "acme" } });
});
afterAll(() => sallyport?.stop());

const many = (n: number, request: object = {}) =>
  Promise.all(Array.from({ length: n }, () => sallyport.createToken(request)));
const live = async (of: readonly { tokenString: string }[]) => {
  const alive = await Promise.all(of.map(({ tokenString }) => sallyport.verdict(tokenString)));
  return alive.filter((verdict) => verdict === "ALLOW").length;
};
const revoke = (request: object) => sallyport.admin.tokens.revokeTokens(request);
const audited = async (action: string) =>
  (await sallyport.sql<{ n: number }>("select count(*)::int as n from sallyport.audit where action = $1", [action]))[0]!
    .n;

const DAY_MS = 86_400_000;

/** A token of 2001. */
async function old(name: string): Promise<string> {
  const id = `tok_${name.padStart(22, "0")}`;
  await sallyport.sql(`
    with a as (insert into sallyport.audit (tenant, actor, action, target) values ('default', 'test', 'token.create', 'x')),
      p as (insert into sallyport.principals (tenant, name) values ('default', 'user:${name}') returning name)
    insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, create_time, expire_time)
    select '${id}', sha256('${id}'), '1', 'sp_pat_1${name}', 'default', 'pat', name, 'x', '${id}', '2001-01-01', now() + '1 day' from p`);
  return id;
}

test("an empty request revokes nothing, and asks for a selector", async () => {
  const [one] = await many(1);
  for (const request of [{}, { reason: "x" }, { dryRun: true }, { noWait: true }]) {
    expect(await failure(revoke(request))).toMatchObject({ code: "InvalidArgument", reason: "INVALID_FIELD" });
  }
  expect(await live([one!])).toBe(1);
});

test("a principal's tokens end by one cut, with one audit row for all of them; later tokens live", async () => {
  const before = await many(7, { principal: "user:cut" });
  const other = await many(1, { principal: "user:kept" });
  expect(await live(before)).toBe(7);
  const singles = await audited("token.revoke");
  const done = await revoke({ principal: "user:cut", reason: "left" });
  expect(done.revokedCount).toBe(7);
  expect([...done.matchedIds].sort()).toEqual(before.map(({ id }) => id).sort());
  expect(await live(before)).toBe(0);
  expect(await live(other)).toBe(1);
  expect(await audited("token.revoke")).toBe(singles);
  const { events } = await sallyport.admin.audit.listAuditEvents({ action: "tokens.revoke", owner: "user:cut" });
  expect(events).toMatchObject([{ target: "principal:user:cut", metadata: { reason: "left" } }]);
  expect(await live(await many(1, { principal: "user:cut" }))).toBe(1);
  expect((await revoke({ principal: "user:cut" })).revokedCount).toBe(1);
});

test("a cut counts the tokens that it ended: not those that were dead, nor those minted since", async () => {
  await many(3, { principal: "user:twice" });
  expect((await revoke({ principal: "user:twice" })).revokedCount).toBe(3);
  const [alone, off, ...rest] = await many(6, { principal: "user:twice" });
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: alone!.id } });
  await sallyport.admin.tokens.updateToken({
    token: { id: off!.id, disabled: true },
    updateMask: { paths: ["disabled"] },
  });
  const done = await revoke({ principal: "user:twice" });
  expect(done.revokedCount).toBe(5);
  expect([...done.matchedIds].sort()).toEqual([off!, ...rest].map(({ id }) => id).sort());
});

test("a locked row delays no other, and is revoked on its own", async () => {
  const some = await many(5, { principal: "user:held" });
  const ids = some.map(({ id }) => id);
  const holder = new pg.Client({ connectionString: sallyport.database.url });
  await holder.connect();
  onTestFinished(() => holder.end());
  await holder.query("begin");
  await holder.query("select from sallyport.tokens where id = $1 for update", [ids[2]]);
  const done = revoke({ ids });
  const others = some.filter(({ id }) => id !== ids[2]);
  await expect.poll(() => live(others), { timeout: 4000 }).toBe(0);
  await holder.query("rollback");
  expect((await done).revokedCount).toBe(5);
  expect(await live(some)).toBe(0);
});

test("a whole tenant ends by one cut, and no other tenant does", async () => {
  const inside = await many(3, { tenant: "acme", principal: "user:a" });
  const outside = await many(2);
  expect((await revoke({ tenant: "acme" })).revokedCount).toBe(3);
  expect(await live(inside)).toBe(0);
  expect(await live(outside)).toBe(2);
  expect(await outcome(revoke({ tenant: "nowhere" }))).toBe("TENANT_NOT_FOUND");
});

test("a dry run counts and lists the tokens that would be revoked, and changes nothing", async () => {
  const some = await many(4, { principal: "user:dry" });
  const done = await revoke({ principal: "user:dry", dryRun: true });
  expect(done.revokedCount).toBe(4);
  expect(done.effect).toBeUndefined();
  expect(done.matchedIds).toHaveLength(4);
  expect(await live(some)).toBe(4);
});

test("other selectors are combined by AND and revoke in chunks, each token with its audit row and reason", async () => {
  const some = await many(3, { profile: "bot", principal: "bot:ci", displayName: "" });
  const pats = await many(2, { principal: "user:f" });
  const maker = await sallyport.callerWith(["sallyport.admin"]);
  const theirs = await sallyport.createToken({ principal: "user:f" }, sallyport.as(maker.tokenString));
  expect((await revoke({ profile: "bot", createdBy: `token:${maker.token.hint}` })).revokedCount).toBe(0);
  const before = await audited("token.revoke");
  expect((await revoke({ profile: "bot", reason: "why" })).revokedCount).toBe(3);
  expect(await audited("token.revoke")).toBe(before + 3);
  expect((await sallyport.admin.tokens.getToken({ id: some[0]!.id })).token).toMatchObject({
    revokeReason: "why",
    state: 5,
  });
  expect((await revoke({ createdBy: `token:${maker.token.hint}` })).matchedIds).toEqual([theirs.id]);
  expect(await live(pats)).toBe(2);
  const cutoff = Math.min(...pats.map(({ token }) => timestampMs(token.createTime!)));
  expect((await revoke({ principal: "user:f", createdBefore: timestampFromMs(cutoff) })).revokedCount).toBe(0);
  expect((await revoke({ principal: "user:f", createdBefore: timestampFromMs(Date.now() + 5000) })).revokedCount).toBe(
    2,
  );
});

test("each selector alone ends only the tokens that fit it, never the whole tenant", async () => {
  await sallyport.admin.roles.createRole({ role: { name: "deployer", scopes: ["deploy"] } });
  await sallyport.admin.roles.createRole({ role: { name: "unused" } });
  const maker = await sallyport.callerWith(["sallyport.admin"]);
  const [kept] = await many(1, { principal: "user:bystander" });
  const alone: {
    readonly [K in keyof Selectors]: () => Promise<readonly [object, { id: string }]>;
  } = {
    profile: async () => {
      const token = await sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "" });
      return [{ profile: "bot" }, token];
    },
    createdBy: async () => {
      const token = await sallyport.createToken({}, sallyport.as(maker.tokenString));
      return [{ createdBy: `token:${maker.token.hint}` }, token];
    },
    createdBefore: async () => [{ createdBefore: timestampFromMs(Date.UTC(2002)) }, { id: await old("old") }],
    role: async () => [{ role: "deployer" }, (await many(1, { roles: ["deployer"] }))[0]!],
    lastUsedBefore: async () => {
      const id = await old("unused");
      // Old, but used since.
      await old("used");
      await sallyport.sql(`
        insert into sallyport.token_usage (token_id, last_use_time) select id, now() from sallyport.tokens where hint = 'sp_pat_1used'`);
      return [{ lastUsedBefore: timestampFromMs(Date.UTC(2002)) }, { id }];
    },
    noExpiry: async () => {
      const lifetime = { case: "noExpiry", value: true } as const;
      return [
        { noExpiry: true },
        (await many(1, { profile: "bot", principal: "bot:ci", displayName: "", lifetime }))[0]!,
      ];
    },
    expiresAfter: async () => {
      const value = timestampFromMs(Date.now() + 100 * DAY_MS);
      const [token] = await many(1, { lifetime: { case: "expireTime", value } });
      return [{ expiresAfter: timestampFromMs(Date.now() + 99 * DAY_MS) }, token!];
    },
  };
  for (const [name, make] of Object.entries(alone)) {
    const [selector, token] = await make();
    expect([name, (await revoke({ ...selector, dryRun: true })).matchedIds]).toEqual([name, [token.id]]);
    const none: { readonly [K in keyof Selectors]: unknown } = {
      profile: "svc",
      createdBy: "token:nobody",
      createdBefore: timestampFromMs(1),
      role: "unused",
      lastUsedBefore: timestampFromMs(1),
      noExpiry: false,
      expiresAfter: timestampFromMs(Date.UTC(9000)),
    };
    const nobody = name === "noExpiry" ? { createdBy: "token:nobody" } : { [name]: none[name as keyof Selectors] };
    expect([name, (await revoke(nobody)).revokedCount, await live([kept!])]).toEqual([name, 0, 1]);
    expect([name, (await revoke(selector)).matchedIds]).toEqual([name, [token.id]]);
    expect([name, await live([kept!])]).toEqual([name, 1]);
    expect((await sallyport.admin.tokens.getToken({ id: token.id })).token?.state).toBe(5);
  }
  expect(await outcome(revoke({ role: "No Name" }))).toBe("INVALID_FIELD");
  expect((await revoke({ role: "nowhere" })).revokedCount).toBe(0);
  expect(await live([kept!])).toBe(1);
});

test("leaked strings, hints and ids are one selector; foreign strings among them are skipped silently", async () => {
  const [byString, byHint, byId, kept] = await many(4, { principal: "user:leak" });
  const forged = `${byString!.tokenString.slice(0, -1)}${byString!.tokenString.endsWith("0") ? "1" : "0"}`;
  const done = await revoke({
    tokenStrings: [byString!.tokenString, forged, "", "ghp_something_of_another_kind", "x".repeat(8192)].filter(
      Boolean,
    ),
    hints: [byHint!.token.hint, "sp_pat_1nothing0"],
    ids: [byId!.id, "tok_0000000000000000000000", "nonsense"],
  });
  expect([...done.matchedIds].sort()).toEqual([byString!, byHint!, byId!].map(({ id }) => id).sort());
  expect(await live([byString!, byHint!, byId!])).toBe(0);
  expect(await live([kept!])).toBe(1);
  expect((await revoke({ tokenStrings: ["nothing of ours"] })).revokedCount).toBe(0);
});

test("a list longer than a chunk and than the answer's list is counted exactly, and all of it is dead", async () => {
  // Rows as minting makes them, 1,700 at once; their strings are not needed.
  await sallyport.sql(`
    with a as (insert into sallyport.audit (tenant, actor, action, target) values ('default', 'test', 'token.create', 'x')),
      p as (insert into sallyport.principals (tenant, name) values ('default', 'user:big') returning name)
    insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family)
    select id, sha256(id::bytea), '1', 'sp_pat_1' || n, 'default', 'pat', name, 'test', id
    from p, generate_series(1, 1700) n cross join lateral (select 'tok_' || lpad(n::text, 22, '0') as id) i`);
  const dry = await revoke({ createdBy: "test", dryRun: true });
  expect([dry.revokedCount, dry.matchedIds.length]).toEqual([1700, 1000]);
  const done = await revoke({ createdBy: "test" });
  expect([done.revokedCount, done.matchedIds.length]).toEqual([1700, 1000]);
  const [row] = await sallyport.sql<{ revoked: number; audited: number }>(
    `select count(*) filter (where revoke_time is not null)::int as revoked,
       (select count(distinct target)::int from sallyport.audit where owner = 'user:big' and action = 'token.revoke') as audited
     from sallyport.tokens where created_by = 'test'`,
  );
  expect(row).toEqual({ revoked: 1700, audited: 1700 });
  expect((await revoke({ createdBy: "test" })).revokedCount).toBe(0);
});

test("without waiting the answer announces the time at which it is in force everywhere", async () => {
  await many(1, { principal: "user:later" });
  const started = Date.now();
  const { effect } = await revoke({ principal: "user:later", noWait: true });
  expect(effect?.mode).toBe(3);
  const by = timestampMs(effect!.effectiveBy!);
  expect(by).toBeGreaterThan(started);
  expect(by).toBeLessThan(started + 4000);
});

test("descendants are the tokens that a token created, their creations and replacements, also through dead ones; nothing else", async () => {
  await sallyport.registered("bot:root");
  await sallyport.registered("bot:leaf");
  const make = (principal: string, scopes: string[], by?: { tokenString: string }) =>
    sallyport.createToken(
      { profile: "bot", principal, displayName: "", scopes },
      by === undefined ? sallyport.admin : sallyport.as(by.tokenString),
    );
  const rotate = async (by: { tokenString: string }, id: string) => {
    const done = await sallyport
      .as(by.tokenString)
      .tokens.rotateToken({ id, overlap: { seconds: 600n, nanos: 0 }, noWait: true });
    return { tokenString: done.tokenString, id: done.token!.id, token: done.token! };
  };
  const create = "sallyport.tokens.create";
  const root = await make("bot:root", [create]);
  const bystander = await make("bot:leaf", []);
  const first = await make("bot:leaf", [create], root);
  const second = await make("bot:root", [create], first);
  const third = await make("bot:leaf", [], second);
  const turned = await rotate(first, first.id);
  const by = { tokenString: sallyport.adminToken };
  const replaced = await rotate(by, third.id);
  const chained = await rotate(root, root.id);
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: second.id }, noWait: true });
  const selector = { createdBy: `token:${root.token.hint}` };
  const all = [first, third, turned, replaced, chained].map(({ id }) => id).sort();
  expect([...(await revoke({ ...selector, descendants: true, dryRun: true })).matchedIds].sort()).toEqual(all);
  expect((await revoke({ ...selector, dryRun: true })).matchedIds).toHaveLength(2);
  // Without a permission, a token reaches only its own principal's tokens.
  const own = await sallyport
    .as(root.tokenString)
    .tokens.revokeTokens({ ...selector, descendants: true, dryRun: true });
  expect(own.matchedIds).toEqual([chained.id]);
  expect((await revoke({ ...selector, descendants: true })).revokedCount).toBe(5);
  for (const { tokenString } of [first, third, turned, replaced, chained]) {
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
  }
  expect(await sallyport.verdict(bystander.tokenString)).toBe("ALLOW");
  expect(await sallyport.verdict(root.tokenString)).toBe("ALLOW");
});

test("a cutoff for a bot that does not exist is NOT_FOUND and registers nothing; one of an external type is kept", async () => {
  expect(await outcome(revoke({ principal: "bot:unknown" }))).toBe("PRINCIPAL_NOT_FOUND");
  expect(await outcome(revoke({ principal: "service:unknown", noWait: true }))).toBe("PRINCIPAL_NOT_FOUND");
  expect(await outcome(revoke({ tenant: "nowhere", principal: "bot:unknown" }))).toBe("TENANT_NOT_FOUND");
  const written = await sallyport.sql(
    `select name as what from sallyport.principals where name like '%:unknown'
     union all select target from sallyport.audit where target like '%:unknown'`,
  );
  expect(written).toEqual([]);
  const mint = sallyport.createToken({ profile: "bot", principal: "bot:unknown" });
  expect(await outcome(mint)).toBe("PRINCIPAL_NOT_FOUND");
  // A person has no row before the first token, whose mint may be in progress.
  expect((await revoke({ principal: "user:unknown" })).revokedCount).toBe(0);
  expect(await live(await many(1, { principal: "user:unknown" }))).toBe(1);
  // A deleted principal did exist.
  await sallyport.registered("bot:once");
  await sallyport.admin.principals.deletePrincipal({ name: "bot:once" });
  expect(await outcome(revoke({ principal: "bot:once" }))).toBe("OK");
});
