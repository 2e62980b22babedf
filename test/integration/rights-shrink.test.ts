import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { outcome, seconds, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({
    config: {
      profiles: {
        same: { principals: ["bot"], self_rotate: true, allow_empty_name: true },
        brief: { principals: ["bot"], self_rotate: "renew", allow_empty_name: true, scope_ceilings: { deploy: "2s" } },
        kin: { principals: ["user"], minted_by: ["session", "admin", "token"], allow_empty_name: true },
      },
    },
  });
  for (const name of ["bot:ci", "bot:other", "bot:third", "bot:races"]) await sallyport.registered(name);
});
afterAll(() => sallyport?.stop());

type Made = Awaited<ReturnType<TestSallyport["createToken"]>>;
const CREATE = "sallyport.tokens.create";
const ttl = (s: number) => ({ case: "ttl" as const, value: seconds(s) });
const NEVER = { case: "noExpiry" as const, value: true };
const byId = (value: string) => ({ target: { case: "id" as const, value } });
const bot = (scopes: string[] = [], more = {}) =>
  sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "", scopes, ...more });
const as = ({ tokenString }: { tokenString: string }) => sallyport.as(tokenString);
const get = async (id: string) => (await sallyport.admin.tokens.getToken({ id })).token!;
const endOf = (token: { expireTime?: Made["token"]["expireTime"] } | undefined) =>
  token?.expireTime === undefined ? Number.POSITIVE_INFINITY : timestampMs(token.expireTime);
const update = (by: { tokenString: string }, token: object, ...paths: string[]) =>
  outcome(as(by).tokens.updateToken({ token, updateMask: { paths }, noWait: true }));

describe("a token cannot widen itself", () => {
  test("not its end, its networks, its audiences, its scopes, not even as an operator; it may narrow all of them", async () => {
    const operator = await sallyport.callerWith(["sallyport.operator"], { lifetime: ttl(600) });
    const weak = await bot([CREATE, "repo:read"], { lifetime: ttl(60), allowedCidrs: ["127.0.0.0/8"] });
    for (const mine of [weak, operator]) {
      const { id } = mine;
      const later = timestampFromMs(Date.now() + 300 * 86_400_000);
      expect(await update(mine, { id, expireTime: later }, "expire_time")).toBe("RIGHTS_EXCEEDED");
      expect(endOf(await get(id))).toBe(endOf(mine.token));
      expect(await update(mine, { id, expireTime: timestampFromMs(Date.now() + 50_000) }, "expire_time")).toBe("OK");
    }
    expect(await update(weak, { id: weak.id }, "expire_time")).toBe("RIGHTS_EXCEEDED");
    expect(await update(weak, { id: weak.id }, "allowed_cidrs")).toBe("RIGHTS_EXCEEDED");
    expect(await update(weak, { id: weak.id, allowedCidrs: ["127.0.0.0/7"] }, "allowed_cidrs")).toBe("RIGHTS_EXCEEDED");
    expect(await update(weak, { id: weak.id, allowedCidrs: ["127.0.0.1"] }, "allowed_cidrs")).toBe("OK");
    expect(await update(weak, { id: weak.id, scopes: [CREATE, "repo:*"] }, "scopes")).toBe("RIGHTS_EXCEEDED");
    expect(await update(operator, { id: operator.id, scopes: ["sallyport.operator", "x"] }, "scopes")).toBe(
      "RIGHTS_EXCEEDED",
    );
    expect(await update(weak, { id: weak.id, scopes: [CREATE] }, "scopes")).toBe("OK");
  });

  test("not by its old string either, while that still works", async () => {
    const old = await bot([CREATE], { lifetime: ttl(600) });
    const fresh = await as(old).tokens.rotateToken({ id: old.id, overlap: seconds(60), noWait: true });
    expect(await update(old, { id: fresh.token!.id }, "expire_time")).toBe("RIGHTS_EXCEEDED");
  });
});

describe("a caller cannot widen a token that holds more than itself", () => {
  test("an operator's disabled token is not enabled, freed of its networks, or prolonged", async () => {
    const strong = await sallyport.callerWith(["sallyport.operator"], { allowedCidrs: ["192.0.2.1"] });
    await sallyport.admin.tokens.updateToken({
      token: { id: strong.id, disabled: true },
      updateMask: { paths: ["disabled"] },
      noWait: true,
    });
    for (const scopes of [[CREATE, "repo:*"], ["sallyport.admin"]]) {
      const caller = await sallyport.callerWith(scopes);
      for (const path of ["disabled", "allowed_cidrs"]) {
        expect(await update(caller, { id: strong.id }, path), `${scopes} ${path}`).toBe("RIGHTS_EXCEEDED");
      }
      const later = timestampFromMs(Date.now() + 200 * 86_400_000);
      expect(await update(caller, { id: strong.id, expireTime: later }, "expire_time")).toBe("RIGHTS_EXCEEDED");
    }
    expect(await get(strong.id)).toMatchObject({ disabled: true, allowedCidrs: ["192.0.2.1"] });
  });

  test("a caller gives another's token no later end and no more networks than it has; an administrator does", async () => {
    const caller = await sallyport.callerWith([CREATE], { lifetime: ttl(600), allowedCidrs: ["127.0.0.1"] });
    const { id } = await bot([], { principal: "bot:other", lifetime: ttl(60), allowedCidrs: ["127.0.0.1"] });
    expect(await update(caller, { id }, "expire_time")).toBe("RIGHTS_EXCEEDED");
    expect(await update(caller, { id }, "allowed_cidrs")).toBe("RIGHTS_EXCEEDED");
    expect(await update(caller, { id, expireTime: timestampFromMs(Date.now() + 500_000) }, "expire_time")).toBe("OK");
    const admin = await sallyport.callerWith(["sallyport.admin"], { lifetime: ttl(600) });
    expect(await update(admin, { id }, "allowed_cidrs", "expire_time")).toBe("OK");
    expect(endOf(await get(id))).toBe(Number.POSITIVE_INFINITY);
  });
});

describe("rotation does not prolong life", () => {
  const rotate = async (by: { tokenString: string }, id: string, more = {}) =>
    (await as(by).tokens.rotateToken({ id, noWait: true, ...more })) as { tokenString: string; token: Made["token"] };

  test("renew: the lifetime of the first of the family, from the rotation on; never longer", async () => {
    const first = await bot([], { lifetime: ttl(60) });
    const second = await rotate(first, first.id, { lifetime: NEVER });
    expect(endOf(second.token) - timestampMs(second.token.createTime!)).toBe(60_000);
    const third = await rotate(second, second.token.id, { lifetime: ttl(10) });
    expect(endOf(third.token) - timestampMs(third.token.createTime!)).toBe(10_000);
    const fourth = await rotate(third, third.token.id);
    expect(endOf(fourth.token) - timestampMs(fourth.token.createTime!)).toBe(60_000);
    const free = await bot([], { lifetime: NEVER });
    expect(endOf((await rotate(free, free.id)).token)).toBe(Number.POSITIVE_INFINITY);
  });

  test("renew: a lifetime that an administrator shortened stays short", async () => {
    const made = await bot([], { lifetime: NEVER });
    const soon = timestampFromMs(Date.now() + 30_000);
    await sallyport.admin.tokens.updateToken({
      token: { id: made.id, expireTime: soon },
      updateMask: { paths: ["expire_time"] },
      noWait: true,
    });
    const second = await rotate(made, made.id);
    expect(endOf(second.token) - timestampMs(second.token.createTime!)).toBeLessThanOrEqual(30_000);
    const other = await bot([], { lifetime: NEVER });
    const short = await sallyport.admin.tokens.rotateToken({ id: other.id, lifetime: ttl(30), noWait: true });
    const again = await rotate(short, short.token!.id);
    expect(endOf(again.token) - timestampMs(again.token.createTime!)).toBeLessThanOrEqual(30_000);
  });

  test("true: the new token ends when the old one would have; false: the token cannot rotate itself, whatever it holds", async () => {
    const same = await bot([], { profile: "same", lifetime: ttl(60) });
    expect(endOf((await rotate(same, same.id, { lifetime: NEVER })).token)).toBe(endOf(same.token));
    const pat = await sallyport.createToken({ scopes: [CREATE] });
    expect(await outcome(as(pat).tokens.rotateToken({ id: pat.id }))).toBe("CALLER_FORBIDDEN");
    const operator = await sallyport.callerWith(["sallyport.operator"]);
    expect(await outcome(as(operator).tokens.rotateToken({ id: operator.id }))).toBe("CALLER_FORBIDDEN");
  });

  test("the ceiling of a scope counts from the first of the family", async () => {
    const first = await bot(["deploy"], { profile: "brief" });
    const second = await rotate(first, first.id, { lifetime: NEVER });
    expect(endOf(second.token)).toBe(endOf(first.token));
    const boot = await bot(["bootstrap"], { lifetime: ttl(2) });
    expect(endOf((await rotate(boot, boot.id)).token)).toBe(endOf(boot.token));
    const hour = await bot(["bootstrap"]);
    const renewed = await sallyport.admin.tokens.rotateToken({ id: hour.id, lifetime: NEVER, noWait: true });
    expect(endOf(renewed.token)).toBe(timestampMs(hour.token.createTime!) + 3600_000);
  });

  test("it keeps not_before_time, and a rotation by another token ends with that token's time", async () => {
    const begins = timestampFromMs(Date.now() + 3600_000);
    const later = await bot([], { notBeforeTime: begins });
    const fresh = await sallyport.admin.tokens.rotateToken({ id: later.id, noWait: true });
    expect(fresh.token).toMatchObject({ notBeforeTime: begins, state: 2 });
    expect(await sallyport.verdict(fresh.tokenString)).toBe("INVALID_TOKEN");
    const caller = await sallyport.callerWith([CREATE], { lifetime: ttl(60) });
    const long = await bot([], { principal: "bot:other", lifetime: NEVER });
    expect(endOf((await rotate(caller, long.id)).token)).toBe(endOf(caller.token));
    const bound = await sallyport.callerWith([CREATE], { allowedCidrs: ["127.0.0.1"] });
    const free = await bot([], { principal: "bot:other" });
    expect(await outcome(as(bound).tokens.rotateToken({ id: free.id }))).toBe("RIGHTS_EXCEEDED");
  });
});

describe("the minters of a pat", () => {
  test("are administrators; not a token, neither for another nor for its own principal", async () => {
    const pat = await sallyport.createToken({ scopes: [CREATE, "repo:read"], lifetime: ttl(60) });
    const friend = { principal: "user:friend", scopes: [CREATE], lifetime: NEVER };
    expect(await outcome(sallyport.createToken(friend, as(pat)))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(sallyport.createToken({ lifetime: NEVER }, as(pat)))).toBe("RIGHTS_EXCEEDED");
    const adm = { ...friend, profile: "adm", lifetime: ttl(86_400) };
    expect(await outcome(sallyport.createToken(adm, as(pat)))).toBe("RIGHTS_EXCEEDED");
    const admin = await sallyport.callerWith(["sallyport.admin"]);
    expect(await outcome(sallyport.createToken(friend, as(admin)))).toBe("OK");
  });

  test("minted_by: [token] opens a profile for children of the same principal, and for no one else", async () => {
    const parent = await sallyport.createToken({ profile: "kin", scopes: [CREATE] });
    const child = await sallyport.createToken({ profile: "kin", scopes: [] }, as(parent));
    expect(child.token.parent).toBe(parent.id);
    expect(await outcome(sallyport.createToken({ profile: "kin", principal: "user:friend" }, as(parent)))).toBe(
      "RIGHTS_EXCEEDED",
    );
  });

  test("a token minted for another principal ends with its minter, and works from no more networks", async () => {
    const maker = await sallyport.callerWith([CREATE], { lifetime: ttl(60), allowedCidrs: ["127.0.0.0/8"] });
    const free = { profile: "bot", principal: "bot:other", displayName: "", lifetime: NEVER };
    const made = await sallyport.createToken(free, as(maker));
    expect(endOf(made.token)).toBe(endOf(maker.token));
    expect(made.token.allowedCidrs).toEqual(["127.0.0.0/8"]);
    const wide = { profile: "bot", principal: "bot:other", displayName: "", allowedCidrs: ["10.0.0.0/8"] };
    expect(await outcome(sallyport.createToken(wide, as(maker)))).toBe("RIGHTS_EXCEEDED");
  });
});

describe("a child never exceeds its parent", () => {
  const childOf = (parent: { tokenString: string }, more = {}) =>
    sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "", ...more }, as(parent));

  test("it inherits its networks, and the request need not name them", async () => {
    const parent = await bot([CREATE], { allowedCidrs: ["127.0.0.1"] });
    const child = await childOf(parent);
    expect(child.token.allowedCidrs).toEqual(["127.0.0.1"]);
    expect(await sallyport.verdict(child.tokenString, { context: { clientAddress: "192.0.2.1" } })).toBe(
      "ADDRESS_NOT_ALLOWED",
    );
    expect(await outcome(childOf(parent, { allowedCidrs: ["192.0.2.0/24"] }))).toBe("RIGHTS_EXCEEDED");
  });

  test("a right that its parent loses is lost to it at every use: scopes, networks, audiences, end", async () => {
    const parent = await bot([CREATE, "repo:*", "x"]);
    const child = await childOf(parent, { scopes: ["repo:*", "x"] });
    const asked = { requiredScopes: ["x"], context: { clientAddress: "192.0.2.1" } };
    expect(await sallyport.verdict(child.tokenString, asked)).toBe("ALLOW");
    const change = (token: object, ...paths: string[]) =>
      sallyport.admin.tokens.updateToken({ token: { id: parent.id, ...token }, updateMask: { paths } });
    await change({ scopes: [CREATE, "repo:read"] }, "scopes");
    const narrowed = await sallyport.validate(child.tokenString, asked);
    expect(narrowed).toMatchObject({ verdict: 3, missingScopes: ["x"], token: { scopes: ["repo:read"] } });
    await change({ audiences: ["https://a.example"] }, "audiences");
    expect(await sallyport.verdict(child.tokenString, { context: asked.context })).toBe("WRONG_AUDIENCE");
    const there = { audience: "https://a.example", context: asked.context };
    expect((await sallyport.validate(child.tokenString, there)).token?.audiences).toEqual(["https://a.example"]);
    await change({ allowedCidrs: ["10.0.0.0/8"] }, "allowed_cidrs");
    expect(await sallyport.verdict(child.tokenString, there)).toBe("ADDRESS_NOT_ALLOWED");
    await change({ allowedCidrs: [] }, "allowed_cidrs");
    const end = timestampFromMs(Date.now() + 600_000);
    await change({ expireTime: end }, "expire_time");
    expect((await sallyport.validate(child.tokenString, there)).token?.expireTime).toEqual(end);
  });

  test("it widens nothing, and rotates only itself", async () => {
    const parent = await bot([CREATE, "repo:read"], { lifetime: ttl(600) });
    const child = await childOf(parent, { scopes: [CREATE, "repo:read"] });
    const target = await bot([], { principal: "bot:other", lifetime: ttl(600) });
    for (const { id } of [parent, target]) {
      expect(await outcome(as(child).tokens.rotateToken({ id }))).toBe("RIGHTS_EXCEEDED");
      expect(await update(child, { id }, "expire_time")).toBe("RIGHTS_EXCEEDED");
    }
    const own = await as(child).tokens.rotateToken({ id: child.id });
    expect(own.token).toMatchObject({ parent: parent.id });
    expect(endOf(own.token)).toBeLessThanOrEqual(endOf(parent.token));
  });
});

describe("only an equal rank ends the tokens of operators and administrators", () => {
  const caller = (...scopes: string[]) => sallyport.callerWith(scopes);

  test("such a token is not revoked, disabled, narrowed or cut by a caller that lacks its permissions", async () => {
    const operator = await sallyport.callerWith(["sallyport.operator"], { principal: "user:op" });
    const admin = await sallyport.callerWith(["sallyport.admin"], { principal: "user:adm" });
    const weak = await sallyport.createToken({ principal: "user:op" });
    const less = [
      [operator, await caller("sallyport.tokens.*", "sallyport.principals.write")],
      [operator, await caller("sallyport.admin")],
      [admin, await caller("sallyport.tokens.*", "sallyport.principals.write")],
    ] as const;
    for (const [target, by] of less) {
      const { tokens, principals } = as(by);
      const { id, token } = target;
      const { principal } = token;
      const refused = {
        revoke: () => tokens.revokeToken(byId(id)),
        "by string": () => tokens.revokeToken({ target: { case: "tokenString", value: target.tokenString } }),
        family: () => tokens.revokeToken({ ...byId(id), family: true }),
        disable: () => tokens.updateToken({ token: { id, disabled: true }, updateMask: { paths: ["disabled"] } }),
        narrow: () => tokens.updateToken({ token: { id, scopes: [] }, updateMask: { paths: ["scopes"] } }),
        bind: () =>
          tokens.updateToken({ token: { id, allowedCidrs: ["192.0.2.1"] }, updateMask: { paths: ["allowed_cidrs"] } }),
        rotate: () => tokens.rotateToken({ id }),
        ids: () => tokens.revokeTokens({ ids: [id] }),
        hints: () => tokens.revokeTokens({ hints: [token.hint], dryRun: true }),
        profile: () => tokens.revokeTokens({ profile: "adm" }),
        principal: () => tokens.revokeTokens({ principal }),
        tenant: () => tokens.revokeTokens({ tenant: "default" }),
        "disable it all": () =>
          principals.updatePrincipal({
            principal: { name: principal, state: 2 },
            updateMask: { paths: ["state"] },
          }),
        "delete it all": () => principals.deletePrincipal({ name: principal }),
      };
      for (const [what, call] of Object.entries(refused)) expect(await outcome(call()), what).toBe("RIGHTS_EXCEEDED");
    }
    // Nor by its own principal's other tokens.
    expect(await outcome(as(weak).tokens.revokeToken(byId(operator.id)))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(as(weak).tokens.revokeTokens({ principal: "user:op" }))).toBe("RIGHTS_EXCEEDED");
    for (const { tokenString } of [operator, admin]) expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  });

  test("such a token is ended by an equal rank; once it is dead it blocks nobody", async () => {
    const admin = await sallyport.callerWith(["sallyport.admin"], { principal: "user:dead" });
    const peer = await caller("sallyport.admin");
    const weak = await caller("sallyport.tokens.*", "sallyport.principals.write");
    expect(await outcome(as(admin).tokens.revokeToken(byId(admin.id)))).toBe("OK");
    expect(await outcome(as(weak).tokens.revokeToken(byId(admin.id)))).toBe("OK");
    expect(await outcome(as(weak).tokens.revokeTokens({ principal: "user:dead" }))).toBe("OK");
    expect(await outcome(as(weak).principals.deletePrincipal({ name: "user:dead" }))).toBe("OK");
    const other = await sallyport.callerWith(["sallyport.admin"], { principal: "user:dead2" });
    expect(await outcome(as(peer).principals.deletePrincipal({ name: "user:dead2" }))).toBe("OK");
    expect(await sallyport.verdict(other.tokenString)).toBe("INVALID_TOKEN");
  });

  test("each of several revocations that share a transaction is judged for itself", async () => {
    const weak = await caller("sallyport.tokens.*");
    const strong = await caller("sallyport.operator");
    const plain = await Promise.all(Array.from({ length: 8 }, () => bot()));
    const kept = await caller("sallyport.operator");
    const ends = await Promise.all([
      ...plain.map(({ id }) => outcome(as(weak).tokens.revokeToken(byId(id)))),
      ...Array.from({ length: 8 }, () => outcome(as(weak).tokens.revokeToken(byId(kept.id)))),
    ]);
    expect(ends).toEqual([...plain.map(() => "OK"), ...Array.from({ length: 8 }, () => "RIGHTS_EXCEEDED")]);
    expect(await sallyport.verdict(kept.tokenString)).toBe("ALLOW");
    expect(await outcome(as(strong).tokens.revokeToken(byId(kept.id)))).toBe("OK");
  });
});

describe("rights are judged on the rows under the lock of the write", () => {
  const TRIES = 120;

  test(`beside an administrator's widening a limited caller gets no string with it: 0 of ${TRIES}`, async () => {
    const limited = sallyport.as((await sallyport.callerWith([CREATE, "x"])).tokenString, "grpc");
    const operator = sallyport.as(sallyport.adminToken, "grpc");
    let given = 0;
    for (let i = 0; i < TRIES; i++) {
      const target = await sallyport.createToken(
        { profile: "adm", principal: "bot:races", displayName: "", scopes: ["x"] },
        operator,
      );
      const widening = { id: target.id, scopes: ["x", "sallyport.admin"] };
      const [rotated] = await Promise.all([
        limited.tokens.rotateToken({ id: target.id, noWait: true }).catch(() => undefined),
        operator.tokens
          .updateToken({ token: widening, updateMask: { paths: ["scopes"] }, noWait: true })
          .catch(() => undefined),
      ]);
      if (rotated !== undefined && (await get(rotated.token!.id)).scopes.includes("sallyport.admin")) given++;
      await operator.tokens.revokeTokens({ principal: "bot:races", noWait: true });
    }
    expect(given).toBe(0);
  }, 120_000);

  test(`two updates at once leave no token with a ceiling and without an end: 0 of ${TRIES}`, async () => {
    const operator = sallyport.as(sallyport.adminToken, "grpc");
    let immortal = 0;
    for (let i = 0; i < TRIES; i++) {
      const { id } = await sallyport.createToken(
        { profile: "bot", principal: "bot:races", displayName: "", scopes: ["y"] },
        operator,
      );
      const set = (token: object, path: string) =>
        operator.tokens
          .updateToken({ token: { id, ...token }, updateMask: { paths: [path] }, noWait: true })
          .catch(() => undefined);
      await Promise.all([set({ scopes: ["y", "bootstrap"] }, "scopes"), set({}, "expire_time")]);
      const after = await get(id);
      if (after.scopes.includes("bootstrap") && after.expireTime === undefined) immortal++;
      await operator.tokens.revokeTokens({ principal: "bot:races", noWait: true });
    }
    expect(immortal).toBe(0);
  }, 120_000);
});

describe("an administrator's token that ends within 14 days", () => {
  const DAY = 86_400;

  test("adds a warning to every answer for its caller; others, and those that live longer, have none", async () => {
    const warning = async (by: { tokenString: string }) => {
      const headers = { authorization: `Bearer ${by.tokenString}` };
      const response = await sallyport.post("admin", "/sallyport.v1.TokenAdmin/ListTokens", { pageSize: 1 }, headers);
      expect(response.status).toBe(200);
      return response.headers.get("sallyport-token-ends");
    };
    const soon = await sallyport.callerWith(["sallyport.admin"], { lifetime: ttl(13 * DAY) });
    expect(await warning(soon)).toBe(new Date(endOf(soon.token)).toISOString());
    expect(await warning(await sallyport.callerWith(["sallyport.admin"], { lifetime: ttl(15 * DAY) }))).toBeNull();
    expect(await warning(await bot([], { lifetime: ttl(DAY) }))).toBeNull();
  });

  test("and the start warns, where it is the first one", () => {
    // The one of the tests is made to live a day.
    expect(sallyport.program.out).toContain('"event":"first_admin_expiring"');
  });
});
