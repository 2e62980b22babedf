import fc from "fast-check";
import { expect, test } from "vitest";
import { dependencies, principalKey } from "../../src/domain/token-snapshot.ts";
import { snapshot } from "../support/token-snapshot.ts";

test("an answer rests on its token, its principal, its tenant, and its parent's token", () => {
  const digest = "d".repeat(32);
  const parent = {
    digest: "q".repeat(32),
    revoked: false,
    disabled: false,
    cut: false,
    audiences: [],
    allowedCidrs: [],
  };
  expect(dependencies(snapshot(1, { digest, tenant: "acme", principal: "bot:ci" }))).toEqual([
    `t${digest}`,
    "pacme\0bot:ci",
    "oacme",
  ]);
  expect(dependencies(snapshot(1, { digest, parent }))).toContain(`t${parent.digest}`);
});

test("no two objects have the same key: the kinds are distinct, and the end of a tenant never runs into a principal", () => {
  const tenant = fc.stringMatching(/^[a-z][a-z0-9-]{0,5}$/);
  const principal = fc.stringMatching(/^(user|bot):[a-z]{1,5}$/);
  fc.assert(
    fc.property(tenant, principal, tenant, principal, (t1, p1, t2, p2) => {
      expect(principalKey(t1, p1) === principalKey(t2, p2)).toBe(t1 === t2 && p1 === p2);
      const keys = dependencies(snapshot(1, { tenant: t1, principal: p1 }));
      expect(new Set(keys.map((key) => key[0])).size).toBe(keys.length);
    }),
  );
});
