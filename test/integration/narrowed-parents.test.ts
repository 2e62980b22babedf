import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({
    config: {
      profiles: { adm: { minted_by: ["session", "admin", "creator", "token"], self_rotate: true } },
    },
  });
});
afterAll(() => sallyport?.stop());

const byId = (value: string) => ({ target: { case: "id" as const, value } });
const as = ({ tokenString }: { tokenString: string }) => sallyport.as(tokenString);

describe("a child whose parent lost the permission", () => {
  const ADM = ["sallyport.admin", "x"];
  let count = 0;
  async function orphaned() {
    const principal = `user:kin${count++}`;
    const parent = await sallyport.callerWith(ADM, { principal });
    const child = await sallyport.callerWith(ADM, { principal }, as(parent));
    expect(child.token.parent).toBe(parent.id);
    await sallyport.admin.tokens.updateToken({
      token: { id: parent.id, scopes: ["x"] },
      updateMask: { paths: ["scopes"] },
    });
    return { ...child, principal };
  }
  type Child = Awaited<ReturnType<typeof orphaned>>;
  const disabled = (id: string) => ({ token: { id, disabled: true }, updateMask: { paths: ["disabled"] } });

  test.each<[string, (me: Child) => Promise<unknown>]>([
    ["RevokeToken by id", (me) => as(me).tokens.revokeToken(byId(me.id))],
    ["of its family", (me) => as(me).tokens.revokeToken({ ...byId(me.id), family: true })],
    ["by string", (me) => as(me).tokens.revokeToken({ target: { case: "tokenString", value: me.tokenString } })],
    ["RevokeTokens by id", (me) => as(me).tokens.revokeTokens({ ids: [me.id] })],
    ["of its principal", (me) => as(me).tokens.revokeTokens({ principal: me.principal })],
  ])("ends itself: %s", async (_, call) => {
    const me = await orphaned();
    expect(await outcome(call(me))).toBe("OK");
    expect(await sallyport.verdict(me.tokenString)).toBe("INVALID_TOKEN");
  });

  test("is ended and disabled by whoever may end an ordinary token", async () => {
    const weak = await sallyport.callerWith(["sallyport.tokens.*", "sallyport.principals.write"]);
    const calls: ((me: Child) => Promise<unknown>)[] = [
      (me) => as(weak).tokens.revokeToken(byId(me.id)),
      (me) => as(weak).tokens.revokeToken({ ...byId(me.id), family: true }),
      (me) => as(weak).tokens.revokeTokens({ ids: [me.id] }),
      (me) => as(weak).tokens.revokeTokens({ principal: me.principal }),
      (me) => as(weak).tokens.updateToken(disabled(me.id)),
      (me) => as(weak).principals.deletePrincipal({ name: me.principal }),
    ];
    for (const call of calls) {
      const me = await orphaned();
      expect([String(call), await outcome(call(me))]).toEqual([String(call), "OK"]);
      expect(await sallyport.verdict(me.tokenString)).toBe("INVALID_TOKEN");
    }
  });

  test("ends no administrator's token any more, and mints and widens nothing", async () => {
    const admin = await sallyport.callerWith(["sallyport.admin"], { principal: "user:chief" });
    const me = await orphaned();
    const mine = await sallyport.callerWith(["sallyport.admin"], { principal: me.principal });
    const { tokens } = as(me);
    expect(await outcome(tokens.revokeToken(byId(admin.id)))).toBe("TOKEN_NOT_FOUND");
    expect(await outcome(tokens.revokeToken(byId(mine.id)))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(tokens.revokeTokens({ ids: [mine.id] }))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(tokens.revokeTokens({ principal: me.principal }))).toBe("RIGHTS_EXCEEDED");
    expect(await outcome(tokens.updateToken(disabled(mine.id)))).toBe("CALLER_FORBIDDEN");
    expect(await outcome(sallyport.callerWith([], { principal: me.principal }, as(me)))).toBe("CALLER_FORBIDDEN");
    const fresh = await tokens.rotateToken({ id: me.id });
    expect(await outcome(sallyport.as(fresh.tokenString).tokens.listTokens({ principal: "user:chief" }))).toBe("OK");
    expect((await sallyport.as(fresh.tokenString).tokens.listTokens({ principal: "user:chief" })).tokens).toEqual([]);
    for (const { tokenString } of [admin, mine]) expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  });
});
