import { toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ListAuditEventsResponseSchema } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { ListTokensResponseSchema } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { failure, outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({ config: { profiles: { pat: { max_live_per_principal: 0 } } } });
  await sallyport.registered("bot:ci");
  await sallyport.sql(`
    with a as (insert into sallyport.audit (tenant, actor, action, target)
        select 'default', 'test', 'token.create', 'n' || n from generate_series(1, 1200) n returning 1),
      p as (insert into sallyport.principals (tenant, name) values ('default', 'user:many') returning name)
    insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, create_time)
    select id, sha256(id::bytea), '1', 'sp_pat_1' || n, 'default', 'pat', name, 'test', id,
      -- Many of one time: the id decides.
      date_trunc('milliseconds', now()) - interval '1 day' + (n / 100) * interval '1 ms'
    from p, generate_series(1, 1200) n cross join lateral (select 'tok_' || lpad(n::text, 22, '0') as id) i`);
});
afterAll(() => sallyport?.stop());

const list = (request: object = {}) => sallyport.admin.tokens.listTokens({ principal: "user:many", ...request });
async function all(request: object, between: () => Promise<unknown> = async () => {}) {
  const ids: string[] = [];
  const sizes: number[] = [];
  for (let pageToken = ""; ; ) {
    const page = await list({ ...request, pageToken });
    ids.push(...page.tokens.map(({ id }) => id));
    sizes.push(page.tokens.length);
    if (page.nextPageToken === "") return { ids, sizes };
    pageToken = page.nextPageToken;
    await between();
  }
}

describe("pages of lists", () => {
  test("hold 50 by default, at most 500, and a size beyond it is refused by name", async () => {
    expect((await list()).tokens).toHaveLength(50);
    expect((await list({ pageSize: 1 })).tokens).toHaveLength(1);
    expect((await list({ pageSize: 500 })).tokens).toHaveLength(500);
    for (const pageSize of [501, -1, 2_147_483_647, -2_147_483_648]) {
      expect(await failure(list({ pageSize }))).toMatchObject({
        code: "InvalidArgument",
        violations: [{ field: "page_size" }],
      });
    }
  });

  test("show everything once, newest first, also if many have the same time", async () => {
    const { ids, sizes } = await all({ pageSize: 500 });
    expect(sizes).toEqual([500, 500, 200]);
    expect(new Set(ids).size).toBe(1200);
    expect(ids).toEqual([...ids].sort().reverse());
    expect((await all({ pageSize: 7 })).ids).toEqual(ids);
  });

  test("lose and repeat no row while others are issued and revoked", async () => {
    const before = (await all({ pageSize: 500 })).ids;
    let revoked = 0;
    const { ids } = await all({ pageSize: 100 }, async () => {
      await Promise.all([1, 2, 3].map(() => sallyport.createToken({ principal: "user:many" })));
      const id = before[revoked++]!;
      await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id }, noWait: true });
    });
    expect(ids).toEqual(before);
  });

  test("are refused if the page token is of another filter, caller or method, or is changed", async () => {
    const { nextPageToken } = await list({ pageSize: 10 });
    const [first, ...rest] = nextPageToken;
    const changed = [
      "x",
      nextPageToken.slice(1),
      (first === "A" ? "B" : "A") + rest.join(""),
      "A".repeat(512),
      Buffer.from("1999:tok").toString("base64url"),
    ];
    const refused = { code: "InvalidArgument", reason: "INVALID_PAGE_TOKEN", violations: [{ field: "page_token" }] };
    for (const pageToken of changed) expect(await failure(list({ pageToken })), pageToken).toMatchObject(refused);
    expect(await failure(list({ pageToken: nextPageToken, profile: "pat" }))).toMatchObject(refused);
    expect(await failure(sallyport.admin.tokens.listTokens({ pageToken: nextPageToken }))).toMatchObject(refused);
    const other = sallyport.as((await sallyport.callerWith(["sallyport.tokens.read"])).tokenString);
    expect(await failure(other.tokens.listTokens({ principal: "user:many", pageToken: nextPageToken }))).toMatchObject(
      refused,
    );
    expect(await failure(sallyport.admin.principals.listPrincipals({ pageToken: nextPageToken }))).toMatchObject(
      refused,
    );
    expect(await failure(sallyport.admin.audit.listAuditEvents({ pageToken: nextPageToken }))).toMatchObject(refused);
    // Another page size is no other filter.
    expect(await outcome(list({ pageToken: nextPageToken, pageSize: 3 }))).toBe("OK");
  });

  test("of principals, tenants and audit events work in the same way", async () => {
    for (let i = 0; i < 7; i++) await sallyport.registered(`bot:p${i}`);
    for (let i = 0; i < 5; i++) await sallyport.admin.tenants.createTenant({ tenant: { id: `t${i}` } });
    const names: string[] = [];
    for (let pageToken = ""; ; ) {
      const page = await sallyport.admin.principals.listPrincipals({ type: "bot", pageSize: 3, pageToken });
      names.push(...page.principals.map(({ name }) => name));
      if ((pageToken = page.nextPageToken) === "") break;
    }
    expect(names).toEqual(["bot:p6", "bot:p5", "bot:p4", "bot:p3", "bot:p2", "bot:p1", "bot:p0", "bot:ci"]);
    const ids: string[] = [];
    for (let pageToken = ""; ; ) {
      const page = await sallyport.admin.tenants.listTenants({ pageSize: 2, pageToken });
      ids.push(...page.tenants.map(({ id }) => id));
      if ((pageToken = page.nextPageToken) === "") break;
    }
    expect(ids).toEqual(["t4", "t3", "t2", "t1", "t0", "default"]);
    const sequences: bigint[] = [];
    for (let pageToken = ""; ; ) {
      const page = await sallyport.admin.audit.listAuditEvents({ actor: "test", pageSize: 500, pageToken });
      sequences.push(...page.events.map(({ sequence }) => sequence));
      if ((pageToken = page.nextPageToken) === "") break;
    }
    expect(sequences).toHaveLength(1200);
    expect(sequences.every((n, i) => i === 0 || n < sequences[i - 1]!)).toBe(true);
  });
});

describe("pages of large items", () => {
  const most = 2 * 1024 * 1024;

  test("end at 2 MiB, and the next ones have the rest", async () => {
    await sallyport.sql(`
      with a as (insert into sallyport.audit (tenant, actor, action, target, metadata)
          select 'default', 'large', 'token.create', 'n' || n, jsonb_build_object('k', repeat('m', 10000))
          from generate_series(1, 500) n returning 1),
        p as (insert into sallyport.principals (tenant, name) values ('default', 'user:large') returning name)
      insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, scopes)
      select id, sha256(id::bytea), '1', 'sp_pat_L' || n, 'default', 'pat', name, 'test', id,
        array(select repeat('s', 97) || lpad(i::text, 3, '0') from generate_series(1, 100) i)
      from p, generate_series(1, 500) n cross join lateral (select 'tok_L' || lpad(n::text, 21, '0') as id) i`);
    for (const protocol of ["grpc", "connect-json"] as const) {
      const { tokens, audit } = sallyport.as(sallyport.adminToken, protocol);
      const ids: string[] = [];
      for (let pageToken = ""; ; ) {
        const page = await tokens.listTokens({ principal: "user:large", pageSize: 500, pageToken });
        expect(toBinary(ListTokensResponseSchema, page).length).toBeLessThanOrEqual(most + 200);
        ids.push(...page.tokens.map(({ id }) => id));
        if ((pageToken = page.nextPageToken) === "") break;
        // A record shows its scopes twice: those of its own, and those that count.
        expect(page.tokens.length).toBeGreaterThan(90);
      }
      expect([ids.length, new Set(ids).size]).toEqual([500, 500]);
      const sequences: bigint[] = [];
      for (let pageToken = ""; ; ) {
        const page = await audit.listAuditEvents({ actor: "large", pageSize: 500, pageToken });
        expect(toBinary(ListAuditEventsResponseSchema, page).length).toBeLessThanOrEqual(most + 200);
        sequences.push(...page.events.map(({ sequence }) => sequence));
        if ((pageToken = page.nextPageToken) === "") break;
        expect(page.events.length).toBeGreaterThan(150);
      }
      expect([sequences.length, new Set(sequences).size]).toEqual([500, 500]);
    }
  });
});

describe("filters of tokens", () => {
  test("state, hint, profile, times and last use work alone and together", async () => {
    const hour = timestampFromMs(Date.now() + 3_600_000);
    const of = (more: object) =>
      sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "", ...more });
    const active = await of({});
    const later = await of({ notBeforeTime: hour });
    const disabled = await of({});
    const revoked = await of({});
    await sallyport.admin.tokens.updateToken({
      token: { id: disabled.id, disabled: true },
      updateMask: { paths: ["disabled"] },
      noWait: true,
    });
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: revoked.id }, noWait: true });
    const found = async (request: object) =>
      (await sallyport.admin.tokens.listTokens({ principal: "bot:ci", ...request })).tokens.map(({ id }) => id);
    expect(await found({ state: 1 })).toEqual([active.id]);
    expect(await found({ state: 2 })).toEqual([later.id]);
    expect(await found({ state: 3 })).toEqual([]);
    expect(await found({ state: 4 })).toEqual([disabled.id]);
    expect(await found({ state: 5 })).toEqual([revoked.id]);
    expect(await found({ hint: later.token.hint })).toEqual([later.id]);
    expect(await found({ hint: later.token.hint, state: 1 })).toEqual([]);
    expect(await found({ profile: "pat" })).toEqual([]);
    expect(await found({ createdAfter: disabled.token.createTime })).toContain(disabled.id);
    expect(await found({ createdBefore: active.token.createTime })).toEqual([]);
    expect(await found({ createdAfter: hour })).toEqual([]);
    expect(await found({ lastUsedBefore: timestampFromMs(0) })).toHaveLength(4);
    expect(timestampMs(active.token.createTime!)).toBeLessThanOrEqual(timestampMs(disabled.token.createTime!));
  });

  test("an unknown name finds nothing; a state that does not exist is refused", async () => {
    for (const text of ["%", "'", "user:%", "\\", "'; drop table sallyport.tokens; --", "ü🎉"]) {
      expect((await sallyport.admin.tokens.listTokens({ hint: text })).tokens, text).toEqual([]);
      expect((await failure(sallyport.admin.tokens.listTokens({ principal: text }))).violations[0]?.field).toBe(
        "principal",
      );
      expect((await sallyport.admin.audit.listAuditEvents({ owner: text })).events, text).toEqual([]);
    }
    expect((await failure(sallyport.admin.tokens.listTokens({ state: 9 as 1 }))).violations[0]?.field).toBe("state");
  });
});

describe("a list filtered by something that does not exist", () => {
  const refusal = async (call: Promise<unknown>) => {
    const { reason, violations } = await failure(call);
    return [reason, ...violations.map(({ field }) => field)];
  };

  test("of an unknown tenant is NOT_FOUND, of one without entries empty", async () => {
    const { tokens, principals, audit, tenants } = sallyport.admin;
    expect(await refusal(tokens.listTokens({ tenant: "nowhere" }))).toEqual(["TENANT_NOT_FOUND"]);
    expect(await refusal(principals.listPrincipals({ tenant: "nowhere" }))).toEqual(["TENANT_NOT_FOUND"]);
    expect(await refusal(audit.listAuditEvents({ tenant: "nowhere" }))).toEqual(["TENANT_NOT_FOUND"]);
    await tenants.createTenant({ tenant: { id: "still-empty" } });
    expect((await tokens.listTokens({ tenant: "still-empty" })).tokens).toEqual([]);
    expect((await principals.listPrincipals({ tenant: "still-empty" })).principals).toEqual([]);
    expect((await audit.listAuditEvents({ tenant: "still-empty", owner: "user:nobody" })).events).toEqual([]);
  });

  test("of an unknown type of principal or profile is INVALID_FIELD, of one without entries empty", async () => {
    const { tokens, principals } = sallyport.admin;
    expect(await refusal(principals.listPrincipals({ type: "robot" }))).toEqual(["INVALID_FIELD", "type"]);
    expect(await refusal(tokens.listTokens({ principal: "robot:ci" }))).toEqual(["INVALID_FIELD", "principal"]);
    expect(await refusal(tokens.listTokens({ profile: "pta" }))).toEqual(["INVALID_FIELD", "profile"]);
    expect((await principals.listPrincipals({ type: "org" })).principals).toEqual([]);
    expect((await tokens.listTokens({ principal: "user:nobody", profile: "svc" })).tokens).toEqual([]);
    // Without a permission, a caller lists its own tokens. The words are the same.
    const own = sallyport.as((await sallyport.createToken({ principal: "user:lister" })).tokenString);
    expect(await refusal(own.tokens.listTokens({ profile: "pta" }))).toEqual(["INVALID_FIELD", "profile"]);
    expect(await refusal(own.tokens.listTokens({ tenant: "nowhere" }))).toEqual(["TENANT_NOT_FOUND"]);
    expect((await own.tokens.listTokens({ principal: "user:ann" })).tokens).toEqual([]);
  });

  test("the tokens of a profile that is no longer configured are listed", async () => {
    const id = `tok_${"retired".padStart(22, "0")}`;
    await sallyport.sql(
      `with row as (insert into sallyport.audit (tenant, actor, action, target) values ('default', 'test', 'test', 'test'))
       insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family)
       values ($1::text, sha256(convert_to($1::text, 'UTF8')), '1', 'h', 'default', 'retired', 'user:admin', 'test', $1::text)`,
      [id],
    );
    const { tokens } = await sallyport.admin.tokens.listTokens({ profile: "retired" });
    expect(tokens.map((token) => token.id)).toEqual([id]);
  });
});

describe("filters of the audit", () => {
  test("filter by actor, action, target, owner and times", async () => {
    const { id } = await sallyport.createToken({ principal: "user:aud" });
    const find = async (request: object) => (await sallyport.admin.audit.listAuditEvents(request)).events;
    const [event] = await find({ owner: "user:aud" });
    expect(event).toMatchObject({ action: "token.create", target: `token:${id}` });
    expect(await find({ target: `token:${id}`, action: "token.create" })).toHaveLength(1);
    expect(await find({ target: `token:${id}`, action: "token.revoke" })).toHaveLength(0);
    expect(await find({ target: `token:${id}`, after: event!.time })).toHaveLength(1);
    expect(await find({ target: `token:${id}`, before: event!.time })).toHaveLength(0);
    expect(await find({ target: `token:${id}`, actor: event!.actor })).toHaveLength(1);
  });

  test("show no tenant's events to another tenant's reader", async () => {
    await sallyport.admin.tenants.createTenant({ tenant: { id: "acme" } });
    const reader = await sallyport.callerWith(["sallyport.audit.read"], { tenant: "acme" });
    const { events } = await sallyport.as(reader.tokenString).audit.listAuditEvents({ pageSize: 500 });
    expect(events.length).toBeGreaterThan(0);
    expect(events.every(({ tenant }) => tenant === "acme")).toBe(true);
  });
});
