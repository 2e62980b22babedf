import { expect, test } from "vitest";
import { checkTenantId, principalType } from "../../src/domain/principal.ts";

const refused = (act: () => unknown) => {
  try {
    act();
    return undefined;
  } catch (error) {
    return (error as { violations: { field: string }[] }).violations[0]?.field;
  }
};

test("a principal is type:id, one of four types, an id of 1 to 128 safe characters", () => {
  for (const [name, type] of [
    ["user:ann", "user"],
    ["bot:ci-runner", "bot"],
    ["service:a.b/c+d@e_f-g", "service"],
    ["org:0", "org"],
    [`user:${"x".repeat(128)}`, "user"],
  ] as const) {
    expect(principalType("f", name)).toBe(type);
  }
  for (const name of [
    "",
    ":",
    "user",
    "user:",
    ":x",
    "User:x",
    "users:x",
    "user:a:b",
    "user:a b",
    "user:ü",
    "user:a\0",
    "user:a\n",
    "\nuser:a",
    "user:a%2F",
    `user:${"x".repeat(129)}`,
    "__proto__:x",
  ]) {
    expect(
      refused(() => principalType("f", name)),
      JSON.stringify(name),
    ).toBe("f");
  }
});

test("a tenant is a lower-case letter and up to 62 of a-z 0-9 -", () => {
  for (const id of ["a", "acme", "a-1-", `a${"z".repeat(62)}`])
    expect(
      refused(() => checkTenantId("f", id)),
      id,
    ).toBeUndefined();
  for (const id of ["", "A", "1a", "-a", "a_", "a.b", "ä", "a\n", `a${"z".repeat(63)}`]) {
    expect(
      refused(() => checkTenantId("f", id)),
      JSON.stringify(id),
    ).toBe("f");
  }
});
