import { afterAll, beforeAll, expect, test } from "vitest";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { TokenState } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
});
afterAll(async () => {
  await sallyport?.stop();
});

test("a token is issued, accepted, listed without its secret, revoked, and never accepted again", async () => {
  const { tokenString, id, token } = await sallyport.createToken({ scopes: ["repo:read"] });
  expect(tokenString.startsWith(token.hint)).toBe(true);
  expect(await sallyport.verdict(tokenString, { requiredScopes: ["repo:read"] })).toBe("ALLOW");

  const { tokens } = await sallyport.admin.tokens.listTokens({ principal: "user:ann" });
  expect(tokens.map((one) => one.id)).toContain(id);
  expect(JSON.stringify(tokens, (_, v) => (typeof v === "bigint" ? String(v) : v))).not.toContain(tokenString);

  const revoked = await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id }, reason: "test" });
  expect(revoked.token?.state).toBe(TokenState.REVOKED);
  // A fresh database has no settled epoch yet, so the wait goes by the lease.
  expect([EffectMode.ACKED, EffectMode.LEASE_EXPIRED]).toContain(revoked.effect?.mode);
  expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
});
