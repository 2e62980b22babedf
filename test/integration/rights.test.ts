import { durationFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { failure, outcome, seconds, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
  for (const name of ["bot:ci", "bot:other", "service:api"]) await sallyport.registered(name);
});
afterAll(() => sallyport?.stop());

const bot = (scopes: string[], more = {}) =>
  sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "", scopes, ...more });
const id = (value: string) => ({ target: { case: "id" as const, value } });
const rows = async (where = "true") =>
  (await sallyport.sql<{ n: number }>(`select count(*)::int as n from sallyport.tokens where ${where}`))[0]!.n;

describe("the principals that a token can speak for", () => {
  test("an unknown bot or service is NOT_FOUND, and nothing is written: no token, no principal, no audit row of it", async () => {
    const before = await rows();
    for (const [profile, principal] of [
      ["bot", "bot:ghost"],
      ["svc", "service:ghost"],
      ["adm", "bot:ghost"],
    ] as const) {
      expect(await failure(sallyport.createToken({ profile, principal }))).toMatchObject({
        code: "NotFound",
        reason: "PRINCIPAL_NOT_FOUND",
      });
    }
    expect(await rows()).toBe(before);
    expect(await sallyport.sql("select from sallyport.principals where name like '%:ghost'")).toHaveLength(0);
    expect(await sallyport.sql("select from sallyport.audit where owner like '%:ghost'")).toHaveLength(0);
  });

  test("a person or an organization needs no registration, and gets a row with its first token", async () => {
    await sallyport.createToken({ principal: "user:new.person@acme.example" });
    expect(
      (await sallyport.admin.principals.getPrincipal({ name: "user:new.person@acme.example" })).principal?.state,
    ).toBe(1);
  });

  test("a disabled principal gets no token, nor does a deleted one until it is created again", async () => {
    const name = await sallyport.registered("bot:off");
    await sallyport.admin.principals.updatePrincipal({
      principal: { name, state: 2 },
      updateMask: { paths: ["state"] },
      noWait: true,
    });
    const mint = () => sallyport.createToken({ profile: "bot", principal: name });
    expect(await failure(mint())).toMatchObject({ code: "FailedPrecondition", reason: "PRINCIPAL_DISABLED" });
    await sallyport.admin.principals.deletePrincipal({ name, noWait: true });
    expect(await outcome(mint())).toBe("PRINCIPAL_NOT_FOUND");
    await sallyport.registered(name);
    expect(await outcome(mint())).toBe("OK");
  });

  test("a profile applies to its types of principals, and an unknown profile gets a list of the known ones", async () => {
    for (const [profile, principal] of [
      ["pat", "bot:ci"],
      ["bot", "user:ann"],
      ["svc", "bot:ci"],
      ["org", "user:ann"],
    ] as const) {
      expect(await failure(sallyport.createToken({ profile, principal }))).toMatchObject({
        code: "InvalidArgument",
        violations: [{ field: "principal" }],
      });
    }
    const unknown = await failure(sallyport.createToken({ profile: "pet" }));
    expect(unknown.violations).toEqual([{ field: "profile", description: "must be one of pat, bot, svc, org, adm" }]);
  });

  test("a name is required if the profile requires one, and is trimmed", async () => {
    expect(await failure(sallyport.createToken({ displayName: " \t " }))).toMatchObject({
      violations: [{ field: "display_name", description: "must have 1 to 100 characters" }],
    });
    expect((await sallyport.createToken({ displayName: "  two words\n" })).token.displayName).toBe("two words");
    expect((await bot([], { displayName: "" })).token.displayName).toBe("");
  });
});

describe("rights only shrink", () => {
  test("operators and administrators grant scopes that they do not hold; others grant a part of their own", async () => {
    const maker = sallyport.as(
      (await sallyport.callerWith(["sallyport.tokens.create", "repo:*", "user.read"])).tokenString,
    );
    const mint = (...scopes: string[]) =>
      outcome(sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "", scopes }, maker));
    expect(await mint()).toBe("OK");
    expect(await mint("repo:read", "user.read")).toBe("OK");
    expect(await mint("repo:*")).toBe("OK");
    expect(await mint("repo:read:*")).toBe("OK");
    for (const more of ["repo", "repository:read", "user.write", "user.*", "*:*", "deploy"]) {
      expect(await mint("repo:read", more), more).toBe("RIGHTS_EXCEEDED");
    }
    const admin = sallyport.as((await sallyport.callerWith(["sallyport.admin"])).tokenString);
    expect(await outcome(sallyport.createToken({ scopes: ["deploy", "anything:*"] }, admin))).toBe("OK");
  });

  test("only its holder grants a scope under sallyport., and most of them only to adm tokens", async () => {
    const admin = sallyport.as((await sallyport.callerWith(["sallyport.admin"])).tokenString);
    const adm = (...scopes: string[]) =>
      outcome(sallyport.createToken({ profile: "adm", principal: "user:x", displayName: "", scopes }, admin));
    expect(await adm("sallyport.admin")).toBe("OK");
    expect(await adm("sallyport.audit.read", "sallyport.principals.write")).toBe("OK");
    for (const more of ["sallyport.operator", "sallyport.*", "sallyport.future", "sallyport.audit.*"]) {
      expect(await adm(more), more).toBe("RIGHTS_EXCEEDED");
    }
    for (const ordinary of [
      "sallyport.validate",
      "sallyport.reasons",
      "sallyport.tokens.*",
      "sallyport.tokens.revoke",
    ]) {
      expect(await outcome(bot([ordinary])), ordinary).toBe("OK");
    }
    for (const more of [
      "sallyport.operator",
      "sallyport.admin",
      "sallyport.*",
      "sallyport.audit.read",
      "sallyport.tokens.x",
    ]) {
      expect(await outcome(bot([more])), more).toBe("RIGHTS_EXCEEDED");
    }
    const reader = sallyport.as((await sallyport.callerWith(["sallyport.tokens.create"])).tokenString);
    const reasons = { profile: "bot", principal: "bot:ci", scopes: ["sallyport.reasons"] };
    expect(await outcome(sallyport.createToken(reasons, reader))).toBe("RIGHTS_EXCEEDED");
  });

  test("an update grants no more than a mint: the same rules apply to its scopes", async () => {
    const mine = await sallyport.callerWith(["sallyport.tokens.create", "repo:read"]);
    const maker = sallyport.as(mine.tokenString);
    const short = { case: "ttl" as const, value: durationFromMs(3_600_000) };
    const ofBot = { profile: "bot", principal: "bot:ci" };
    const { id: target } = await sallyport.createToken({ ...ofBot, scopes: ["repo:read"], lifetime: short });
    const { id: outlives } = await sallyport.createToken({ ...ofBot, scopes: ["other"] });
    const setOf =
      (id: string) =>
      (...scopes: string[]) =>
        outcome(maker.tokens.updateToken({ token: { id, scopes }, updateMask: { paths: ["scopes"] }, noWait: true }));
    const set = setOf(target);
    expect(await setOf(outlives)("repo:read")).toBe("RIGHTS_EXCEEDED");
    expect(await set("repo:write")).toBe("RIGHTS_EXCEEDED");
    expect(await set("sallyport.tokens.create")).toBe("OK");
    expect(await set("repo:read")).toBe("OK");
    expect(
      await outcome(
        maker.tokens.updateToken({
          token: { id: mine.id, scopes: ["sallyport.operator"] },
          updateMask: { paths: ["scopes"] },
        }),
      ),
    ).toBe("RIGHTS_EXCEEDED");
  });

  test("a rotation hands out no rights that the caller could not grant", async () => {
    const strong = await sallyport.createToken({ scopes: ["deploy"] });
    const maker = sallyport.as((await sallyport.callerWith(["sallyport.tokens.create", "repo:read"])).tokenString);
    expect(await outcome(maker.tokens.rotateToken({ id: strong.id }))).toBe("RIGHTS_EXCEEDED");
    expect(await sallyport.verdict(strong.tokenString)).toBe("ALLOW");
  });

  test("a refused grant is audited as a denial, with actor and target and without the scope", async () => {
    const weak = await sallyport.callerWith(["sallyport.tokens.create"]);
    const refused = () =>
      outcome(
        sallyport.createToken(
          { profile: "bot", principal: "bot:ci", scopes: ["deploy:secret-name"] },
          sallyport.as(weak.tokenString),
        ),
      );
    // At most ten rows a second are written for refusals, and the tests before this one may have used them up.
    const written = async () => {
      await refused();
      return (
        await sallyport.admin.audit.listAuditEvents({ action: "caller.denied", actor: `token:${weak.token.hint}` })
      ).events[0];
    };
    await expect.poll(written, { timeout: 5000 }).toMatchObject({
      target: "rpc:sallyport.v1.TokenAdmin/CreateToken",
      outcome: 2,
      metadata: { reason: "RIGHTS_EXCEEDED" },
    });
  });
});

describe("children: tokens that a token mints for its own principal", () => {
  const parentOf = (more = {}) => bot(["sallyport.tokens.create", "repo:*"], more);
  const childOf = (parent: { tokenString: string }, more = {}) =>
    sallyport.createToken(
      { profile: "bot", principal: "bot:ci", displayName: "", scopes: ["repo:read"], ...more },
      sallyport.as(parent.tokenString),
    );

  test("a child names its parent, and never outlives it", async () => {
    const parent = await parentOf({ lifetime: { case: "ttl", value: seconds(600) } });
    for (const lifetime of [
      { case: undefined },
      { case: "noExpiry", value: true },
      { case: "ttl", value: seconds(86_400) },
    ] as const) {
      const child = await childOf(parent, { lifetime });
      expect(child.token.parent).toBe(parent.id);
      expect(timestampMs(child.token.expireTime!)).toBe(timestampMs(parent.token.expireTime!));
    }
    const child = await childOf(parent);
    const longer = await sallyport.admin.tokens.updateToken({
      token: { id: child.id },
      updateMask: { paths: ["expire_time"] },
      noWait: true,
    });
    expect(timestampMs(longer.token!.expireTime!)).toBe(timestampMs(parent.token.expireTime!));
  });

  test("a child mints nothing: not for itself, not for others", async () => {
    const child = await childOf(await parentOf(), { scopes: ["sallyport.tokens.create", "repo:read"] });
    expect(await outcome(childOf(child))).toBe("RIGHTS_EXCEEDED");
    expect(
      await outcome(
        sallyport.createToken(
          { profile: "bot", principal: "bot:other", displayName: "" },
          sallyport.as(child.tokenString),
        ),
      ),
    ).toBe("RIGHTS_EXCEEDED");
  });

  test.each([
    ["is revoked", (parent: string) => sallyport.admin.tokens.revokeToken(id(parent))],
    [
      "is disabled",
      (parent: string) =>
        sallyport.admin.tokens.updateToken({
          token: { id: parent, disabled: true },
          updateMask: { paths: ["disabled"] },
        }),
    ],
    ["is rotated away", (parent: string) => sallyport.admin.tokens.rotateToken({ id: parent })],
    ["is revoked in bulk", (parent: string) => sallyport.admin.tokens.revokeTokens({ ids: [parent] })],
  ])("a child is dead at the answer that its parent %s, and shown as REVOKED", async (_, end) => {
    const parent = await parentOf();
    const child = await childOf(parent);
    expect(await sallyport.verdict(child.tokenString)).toBe("ALLOW");
    await end(parent.id);
    expect(await sallyport.verdict(child.tokenString)).toBe("INVALID_TOKEN");
    expect((await sallyport.admin.tokens.getToken({ id: child.id })).token?.state).toBe(5);
  });

  test("a parent that is rotated with an overlap keeps its children until the overlap ends; the new string mints its own", async () => {
    const parent = await parentOf();
    const child = await childOf(parent);
    const rotated = await sallyport.admin.tokens.rotateToken({ id: parent.id, overlap: seconds(1), noWait: true });
    expect(await sallyport.verdict(child.tokenString)).toBe("ALLOW");
    await expect
      .poll(() => sallyport.verdict(child.tokenString), { timeout: 4000, interval: 50 })
      .toBe("INVALID_TOKEN");
    expect((await childOf(rotated)).token.parent).toBe(rotated.token?.id);
  });

  test("a child that is rotated keeps its parent, and ends with it", async () => {
    const parent = await parentOf();
    const child = await childOf(parent);
    const rotated = await sallyport.admin.tokens.rotateToken({ id: child.id, noWait: true });
    expect(rotated.token?.parent).toBe(parent.id);
    await sallyport.admin.tokens.revokeToken(id(parent.id));
    expect(await sallyport.verdict(rotated.tokenString)).toBe("INVALID_TOKEN");
  });

  test("tokens that an administrator mints for others are not its children", async () => {
    const admin = await sallyport.callerWith(["sallyport.admin"]);
    const made = await sallyport.createToken({ scopes: ["repo:read"] }, sallyport.as(admin.tokenString));
    expect(made.token.parent).toBe("");
    await sallyport.admin.tokens.revokeToken(id(admin.id));
    expect(await sallyport.verdict(made.tokenString)).toBe("ALLOW");
  });

  test("a pat is never minted by a token for its own principal", async () => {
    const pat = await sallyport.createToken({ scopes: ["sallyport.tokens.create"] });
    expect(await failure(sallyport.createToken({}, sallyport.as(pat.tokenString)))).toMatchObject({
      code: "PermissionDenied",
      reason: "RIGHTS_EXCEEDED",
      message: "profile pat cannot be minted by a token for its own principal",
    });
  });

  test("a mint does not outlive the revocation of its minter: at its OK every token that it minted for itself is dead", async () => {
    const parent = await parentOf();
    const caller = sallyport.as(parent.tokenString, "grpc");
    let go = true;
    const made: string[] = [];
    const storm = Array.from({ length: 8 }, async () => {
      while (go) {
        const child = await sallyport
          .createToken({ profile: "bot", principal: "bot:ci", displayName: "" }, caller)
          .catch(() => undefined);
        if (child === undefined) return;
        made.push(child.tokenString);
      }
    });
    await expect.poll(() => made.length, { timeout: 5000 }).toBeGreaterThan(20);
    await sallyport.admin.tokens.revokeToken(id(parent.id));
    go = false;
    await Promise.all(storm);
    const { responses } = await sallyport.validator.batchValidateTokens({
      requests: made.slice(-100).map((tokenString) => ({ tokenString })),
    });
    expect(responses.filter(({ verdict }) => verdict === 1)).toHaveLength(0);
    expect(await outcome(sallyport.createToken({ profile: "bot", principal: "bot:ci" }, caller))).toBe(
      "CALLER_UNAUTHENTICATED",
    );
  });
});

describe("self-service: a token acts on its own principal's tokens", () => {
  test("it gets, lists and revokes its principal's tokens, sees no others, and creates and changes none", async () => {
    const own = await bot([]);
    const sibling = await bot([]);
    const foreign = await sallyport.createToken({ profile: "bot", principal: "bot:other", displayName: "" });
    const me = sallyport.as(own.tokenString);
    expect((await me.tokens.getToken({ id: sibling.id })).token?.id).toBe(sibling.id);
    const { tokens } = await me.tokens.listTokens({ pageSize: 500 });
    expect(tokens.length).toBeGreaterThan(1);
    expect(tokens.every(({ principal }) => principal === "bot:ci")).toBe(true);
    expect((await me.tokens.listTokens({ principal: "bot:other" })).tokens).toEqual([]);
    expect(await outcome(me.tokens.getToken({ id: foreign.id }))).toBe("TOKEN_NOT_FOUND");
    expect(await outcome(me.tokens.revokeToken(id(foreign.id)))).toBe("TOKEN_NOT_FOUND");
    expect(await outcome(me.tokens.revokeToken({ target: { case: "tokenString", value: foreign.tokenString } }))).toBe(
      "TOKEN_NOT_FOUND",
    );
    expect(await outcome(me.tokens.rotateToken({ id: sibling.id }))).toBe("TOKEN_NOT_FOUND");
    expect(
      await outcome(bot([], {}).then(() => sallyport.createToken({ profile: "bot", principal: "bot:ci" }, me))),
    ).toBe("CALLER_FORBIDDEN");
    expect(
      await outcome(
        me.tokens.updateToken({ token: { id: own.id, displayName: "x" }, updateMask: { paths: ["display_name"] } }),
      ),
    ).toBe("CALLER_FORBIDDEN");
    expect(await outcome(me.tokens.revokeTokens({ principal: "bot:other" }))).toBe("PRINCIPAL_NOT_FOUND");
    await me.tokens.revokeToken({ ...id(sibling.id), noWait: true });
    expect((await sallyport.admin.tokens.getToken({ id: sibling.id })).token).toMatchObject({
      state: 5,
      revokedBy: `token:${own.token.hint}`,
    });
    expect(await sallyport.verdict(foreign.tokenString)).toBe("ALLOW");
  });

  test("it revokes itself by its id and by its string, whatever it holds, and what is not its principal's never", async () => {
    await sallyport.admin.tenants.createTenant({ tenant: { id: "twin" } });
    await sallyport.registered("bot:ci", "twin");
    const [byId, byString, operator] = [
      await bot([]),
      await bot([]),
      await sallyport.callerWith(["sallyport.operator"]),
    ];
    const request = { profile: "bot", principal: "bot:ci", displayName: "" };
    const namesake = await sallyport.createToken({ ...request, tenant: "twin" });
    const foreign = await sallyport.createToken({ ...request, principal: "bot:other" });
    const me = sallyport.as(byId.tokenString).tokens;
    for (const other of [namesake, foreign, operator]) {
      const string = { target: { case: "tokenString" as const, value: other.tokenString } };
      for (const target of [id(other.id), { ...id(other.id), family: true }, string]) {
        expect(await outcome(me.revokeToken(target))).toBe("TOKEN_NOT_FOUND");
      }
      for (const selector of [
        { ids: [other.id] },
        { hints: [other.token.hint] },
        { tokenStrings: [other.tokenString] },
      ]) {
        expect((await me.revokeTokens(selector)).revokedCount).toBe(0);
      }
    }
    expect((await me.revokeToken({ ...id(byId.id), reason: "leaked" })).token).toMatchObject({
      state: 5,
      revokedBy: `token:${byId.token.hint}`,
    });
    const self = { target: { case: "tokenString" as const, value: byString.tokenString } };
    expect(await outcome(sallyport.as(byString.tokenString).tokens.revokeToken(self))).toBe("OK");
    expect(await outcome(sallyport.as(operator.tokenString).tokens.revokeToken(id(operator.id)))).toBe("OK");
    for (const { tokenString } of [byId, byString, operator]) {
      expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
      expect(await outcome(sallyport.as(tokenString).tokens.getToken({ id: byId.id }))).toBe("CALLER_UNAUTHENTICATED");
    }
    for (const { tokenString } of [namesake, foreign]) expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  });

  test("a bulk revocation without a principal ends its own principal's tokens, and no other's", async () => {
    const me = await sallyport.createToken({ profile: "svc", principal: "service:api", displayName: "" });
    const foreign = await bot([]);
    const done = await sallyport.as(me.tokenString).tokens.revokeTokens({ profile: "bot", tenant: "default" });
    expect(done.matchedIds).toEqual([]);
    await sallyport.as(me.tokenString).tokens.revokeTokens({ tenant: "default" });
    expect(await sallyport.verdict(me.tokenString)).toBe("INVALID_TOKEN");
    expect(await sallyport.verdict(foreign.tokenString)).toBe("ALLOW");
  });

  test("it rotates itself if its profile allows it, and only then", async () => {
    const self = await bot(["repo:read"]);
    const rotated = await sallyport.as(self.tokenString).tokens.rotateToken({ id: self.id });
    expect(rotated.token).toMatchObject({ principal: "bot:ci", scopes: ["repo:read"], rotatedFrom: self.id });
    expect(await sallyport.verdict(self.tokenString)).toBe("INVALID_TOKEN");
    const pat = await sallyport.createToken();
    expect(await outcome(sallyport.as(pat.tokenString).tokens.rotateToken({ id: pat.id }))).toBe("CALLER_FORBIDDEN");
  });
});

describe("provenance", () => {
  test("token and audit row name the creator: bootstrap, or the creator's hint; never a secret", async () => {
    const maker = await sallyport.callerWith(["sallyport.admin"]);
    const made = await sallyport.createToken({ principal: "user:prov" }, sallyport.as(maker.tokenString));
    expect(made.token.createdBy).toBe(`token:${maker.token.hint}`);
    const { events } = await sallyport.admin.audit.listAuditEvents({ owner: "user:prov" });
    expect(events).toMatchObject([
      {
        action: "token.create",
        actor: `token:${maker.token.hint}`,
        target: `token:${made.id}`,
        tenant: "default",
        actorAddress: "127.0.0.1",
        outcome: 1,
      },
    ]);
    expect(events[0]?.requestId).toMatch(/^[0-9a-f-]{36}$/);
    const { tokens } = await sallyport.admin.tokens.listTokens({ principal: "user:admin" });
    expect(tokens[0]?.createdBy).toBe("bootstrap");
  });
});
