import { describe, expect, test } from "vitest";
import { type Caller, holds, isOperator, type Permission } from "../../src/domain/caller.ts";

const caller = (...scopes: string[]): Caller => ({
  kind: "token",
  provenance: "token:x",
  tenant: "acme",
  principal: "user:ann",
  scopes,
  address: "",
  direct: true,
});
const ALL: readonly Permission[] = [
  "sallyport.operator",
  "sallyport.admin",
  "sallyport.tokens.create",
  "sallyport.tokens.read",
  "sallyport.tokens.revoke",
  "sallyport.principals.write",
  "sallyport.roles.write",
  "sallyport.audit.read",
  "sallyport.validate",
  "sallyport.reasons",
];
const held = (...scopes: string[]) => ALL.filter((permission) => holds(caller(...scopes), permission));

describe("permissions", () => {
  test("operator gives all permissions, admin all but operator, and every other one only itself", () => {
    expect(held("sallyport.operator")).toEqual(ALL);
    expect(held("sallyport.admin")).toEqual(ALL.slice(1));
    for (const one of ALL.slice(2)) expect(held(one)).toEqual([one]);
    expect(held()).toEqual([]);
  });

  test("a wildcard gives the permissions that it covers", () => {
    expect(held("sallyport.tokens.*")).toEqual(ALL.filter((one) => one.startsWith("sallyport.tokens.")));
    expect(held("sallyport.*")).toEqual(ALL);
    expect(isOperator(caller("sallyport.*"))).toBe(true);
  });

  test("a scope that resembles a permission gives none", () => {
    for (const scope of [
      "operator",
      "sallyport",
      "sallyport:*",
      "sallyport:operator",
      "Sallyport.operator",
      "sallyport.operator.*",
      "*",
      ".*",
      "sallyport.admin ",
      "sallyport.adm",
    ]) {
      expect(held(scope), scope).toEqual([]);
    }
  });

  test("admin gives no permission that does not exist yet", () => {
    expect(holds(caller("sallyport.admin"), "sallyport.future")).toBe(false);
    expect(holds(caller("sallyport.admin"), "repo:read")).toBe(false);
  });
});
