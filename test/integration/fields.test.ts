import {
  create,
  type DescField,
  type DescMessage,
  type DescMethodUnary,
  type Message,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AuditLog } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { PrincipalAdmin } from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { ServerInfo } from "../../src/gen/sallyport/v1/server_info_pb.ts";
import { TenantAdmin } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { failure, outcome, seconds, TestSallyport } from "../support/sallyport.ts";

/*
 * Every field of every request of the admin listener, by reflection. Hostile text in each string must get an answer of
 * the API (a refusal that names the field, or "no such thing"), never an INTERNAL error, and is never echoed.
 */
let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
  await sallyport.registered("bot:ci");
});
afterAll(() => sallyport?.stop());

const SERVICES = [TokenAdmin, PrincipalAdmin, TenantAdmin, AuditLog, ServerInfo];
const methods = SERVICES.flatMap((service) =>
  service.methods.map((method) => ({ name: `${service.name}/${method.name}`, method: method as DescMethodUnary })),
);

/** A part of a valid request, so that only the field under test is invalid. */
const GOOD: Readonly<Record<string, object>> = {
  "TokenAdmin/CreateToken": { profile: "pat", principal: "user:ann", displayName: "x" },
  "TokenAdmin/GetToken": { id: "tok_0000000000000000000000" },
  "TokenAdmin/UpdateToken": {
    token: { id: "tok_0000000000000000000000" },
    updateMask: {
      paths: ["display_name", "description", "scopes", "audiences", "allowed_cidrs", "annotations", "expire_time"],
    },
  },
  "TokenAdmin/RevokeToken": { target: { case: "id", value: "tok_0000000000000000000000" } },
  "TokenAdmin/RevokeTokens": { dryRun: true, principal: "user:ann" },
  "TokenAdmin/RotateToken": { id: "tok_0000000000000000000000" },
  "PrincipalAdmin/CreatePrincipal": { principal: { name: "bot:ci" } },
  "PrincipalAdmin/GetPrincipal": { name: "bot:ci" },
  "PrincipalAdmin/UpdatePrincipal": {
    principal: { name: "bot:none" },
    updateMask: { paths: ["display_name", "email", "owner", "annotations"] },
  },
  "PrincipalAdmin/DeletePrincipal": { name: "bot:none" },
  "TenantAdmin/CreateTenant": { tenant: { id: "default" } },
  "TenantAdmin/GetTenant": { id: "default" },
  "TenantAdmin/UpdateTenant": { tenant: { id: "none" }, updateMask: { paths: ["display_name", "annotations"] } },
};

type Path = readonly DescField[];

/** Each field of a message, and of the messages in it, that holds text: as one value, in a list, or in a map. */
function texts(desc: DescMessage, at: Path = []): Path[] {
  return desc.fields.flatMap((field) => {
    const path = [...at, field];
    if (field.fieldKind === "message") return isOurs(field) ? texts(field.message, path) : [];
    if (field.fieldKind === "list")
      return field.listKind === "scalar" && field.scalar === ScalarType.STRING ? [path] : [];
    if (field.fieldKind === "map") return [path];
    return field.fieldKind === "scalar" && field.scalar === ScalarType.STRING ? [path] : [];
  });
}

function set(root: DescMessage, message: Message, path: Path, text: string): void {
  let here = reflect(root, message);
  for (const into of path.slice(0, -1)) {
    if (!here.isSet(into)) here.set(into, reflect(into.message!));
    here = here.get(into) as typeof here;
  }
  const field = path.at(-1)!;
  if (field.fieldKind === "list") here.get(field).add(text);
  else if (field.fieldKind === "map") here.get(field).set(text, text);
  else here.set(field, text);
}

const isOurs = (field: DescField) =>
  field.fieldKind === "message" && field.message.file.proto.package === "sallyport.v1";

function request(name: string, method: DescMethodUnary): Message {
  return create(method.input, GOOD[name] as never) as Message;
}

const MARK = "zq-marker-of-this-value";
const HOSTILE: readonly [string, string][] = [
  ["NUL", `${MARK}\0`],
  ["CRLF", `${MARK}\r\nx-evil: 1`],
  ["ANSI", `\u001b[31m${MARK}`],
  ["bidi", `\u202e${MARK}\u2066`],
  ["line separator", `${MARK}\u2028`],
  ["emoji", `${MARK}👩‍👩‍👧‍👦`],
  ["SQL", `${MARK}'; drop table sallyport.tokens; --`],
  ["8 KiB", MARK.padEnd(8192, "y")],
  ["__proto__", "__proto__"],
];

describe.each(methods)("$name", ({ name, method }) => {
  test("hostile text in any string is refused by name or finds nothing; it is never an internal error, and never repeated", async () => {
    const problems: string[] = [];
    const transport = sallyport.transport("admin", "connect", sallyport.adminToken);
    const walked = texts(method.input);
    for (const fields of walked) {
      const path = fields.map((field) => field.name).join(".");
      for (const [kind, text] of HOSTILE) {
        const message = request(name, method);
        set(method.input, message, fields, text);
        const end = await transport.unary(method, undefined, undefined, undefined, message as never).then(
          () => undefined,
          async (error: unknown) => failure(Promise.reject(error)),
        );
        if (end === undefined) continue;
        const answer = JSON.stringify(end);
        const by = end.reason ?? end.code;
        if (["INTERNAL", "STORE_UNAVAILABLE", "NOT_DONE", "OUTCOME_UNKNOWN", "UNDECODABLE"].includes(by))
          problems.push(`${path} with ${kind}: ${by}`);
        if (answer.includes(MARK)) problems.push(`${path} with ${kind} repeats the value`);
        if (by === "INVALID_FIELD" && end.violations.length === 0)
          problems.push(`${path} with ${kind}: no field is named`);
      }
    }
    expect(problems).toEqual([]);
  });

  test("an unknown JSON field is refused, and so are a misspelt and a repeated oneof", async () => {
    for (const body of [
      '{"nonsense":1}',
      '{"Tenant":"x"}',
      '{"__proto__":{"id":"x"}}',
      "[]",
      "nonsense",
      '{"tenant":{}}',
      '{"nonsense9":1}',
    ]) {
      const response = await sallyport.post("admin", `/sallyport.v1.${name}`, body, {
        authorization: `Bearer ${sallyport.adminToken}`,
      });
      expect(response.status, body).toBe(400);
      const text = await response.text();
      // The name of a field appears if it has the form of one; nothing else of the request ever does.
      if (body === '{"nonsense":1}') expect(JSON.parse(text).message).toContain('has no field "nonsense"');
      else expect(text).not.toContain("nonsense");
    }
  });
});

describe("bounds of CreateToken: a value at the bound is accepted; beyond it field and bound are named and the value is not", () => {
  const many = <T>(n: number, item: (i: number) => T) => Array.from({ length: n }, (_, i) => item(i));
  const map = (n: number, key: (i: number) => string, value: string) =>
    Object.fromEntries(many(n, (i) => [key(i), value]));
  test.each<[string, object, object, RegExp]>([
    ["display_name", { displayName: "n".repeat(100) }, { displayName: "n".repeat(101) }, /100/],
    ["display_name", { displayName: "🎉".repeat(100) }, { displayName: "🎉".repeat(101) }, /100/],
    ["description", { description: "d".repeat(500) }, { description: "d".repeat(501) }, /500/],
    ["description", { description: "🎉".repeat(500) }, { description: "🎉".repeat(501) }, /500/],
    ["scopes", { scopes: many(100, (i) => `s${i}`) }, { scopes: many(101, (i) => `s${i}`) }, /100/],
    ["scopes", { scopes: ["s".repeat(128)] }, { scopes: ["s".repeat(129)] }, /128/],
    ["scopes", { scopes: ["!#[]~"] }, { scopes: ["a b"] }, /128 visible ASCII/],
    ["scopes", {}, { scopes: [""] }, /1/],
    ["scopes", {}, { scopes: ['a"b'] }, /visible ASCII/],
    ["scopes", {}, { scopes: ["a\\b"] }, /visible ASCII/],
    ["scopes", {}, { scopes: ["ü"] }, /visible ASCII/],
    ["audiences", { audiences: many(20, (i) => `a${i}`) }, { audiences: many(21, (i) => `a${i}`) }, /20/],
    ["audiences", { audiences: ["a".repeat(256)] }, { audiences: ["a".repeat(257)] }, /256/],
    ["audiences", {}, { audiences: ["a b"] }, /visible ASCII/],
    [
      "allowed_cidrs",
      { allowedCidrs: many(50, (i) => `10.0.${i}.0/24`) },
      { allowedCidrs: many(51, (i) => `10.0.${i}.0/24`) },
      /50/,
    ],
    [
      "allowed_cidrs",
      { allowedCidrs: ["::/0", "0.0.0.0/0", "192.0.2.1", "2001:db8::1/128"] },
      { allowedCidrs: ["10.0.0.0/33"] },
      /network/,
    ],
    ["allowed_cidrs", {}, { allowedCidrs: ["fe80::1%eth0"] }, /network/],
    ["allowed_cidrs", {}, { allowedCidrs: ["10.0.0.0/8/8"] }, /network/],
    ["annotations", { annotations: map(32, (i) => `k${i}`, "v") }, { annotations: map(33, (i) => `k${i}`, "v") }, /32/],
    [
      "annotations",
      { annotations: { ["k".repeat(63)]: "v".repeat(256) } },
      { annotations: { ["k".repeat(64)]: "v" } },
      /63/,
    ],
    ["annotations", {}, { annotations: { k: "v".repeat(257) } }, /256/],
    ["annotations", {}, { annotations: { k: "🎉".repeat(65) } }, /256/],
    ["annotations", {}, { annotations: { "": "v" } }, /1/],
    ["annotations", {}, { annotations: { k: "a\u0001b" } }, /control/],
    ["principal", { principal: `user:${"p".repeat(128)}` }, { principal: `user:${"p".repeat(129)}` }, /128/],
    [
      "request_id",
      { requestId: "0".repeat(8).concat("-0000-0000-0000-000000000000") },
      { requestId: "x".repeat(36) },
      /UUID/,
    ],
    ["profile", {}, { profile: "p".repeat(33) }, /32/],
    ["tenant", {}, { tenant: "t".repeat(64) }, /63/],
    ["tenant", {}, { tenant: "Not-A-Tenant" }, /lower-case/],
    ["display_name", {}, { displayName: "a\u0007b" }, /control/],
    ["description", {}, { description: "sp_pat_1".padEnd(66, "A") }, /token string/],
  ])("%s", async (field, at, past, bound) => {
    const make = (more: object) => sallyport.createToken({ displayName: "x", ...more });
    expect(await outcome(make(at)), "at the bound").toBe("OK");
    const refused = await failure(make(past));
    expect(refused).toMatchObject({ code: "InvalidArgument", reason: "INVALID_FIELD" });
    const named = refused.violations.filter((violation) => violation.field.split(/[[.]/)[0] === field);
    expect(named.length, JSON.stringify(refused.violations)).toBeGreaterThan(0);
    expect(named.map(({ description }) => description).join(" ")).toMatch(bound);
    const value = JSON.stringify(Object.values(past)[0]).replace(/[[\]{}]/g, "");
    if (value.length > 6) expect(JSON.stringify(refused)).not.toContain(value);
  });

  test("an annotation called __proto__ or constructor is an annotation like any other", async () => {
    const body = {
      profile: "pat",
      principal: "user:ann",
      displayName: "x",
      annotations: JSON.parse('{"__proto__":"p","constructor":"c"}'),
    };
    const raw = JSON.stringify(body).replace('"annotations":{}', '"annotations":{"__proto__":"p","constructor":"c"}');
    const response = await sallyport.post("admin", "/sallyport.v1.TokenAdmin/CreateToken", raw, {
      authorization: `Bearer ${sallyport.adminToken}`,
    });
    const text = await response.text();
    expect(response.status, text).toBe(200);
    expect(text).toContain('"constructor":"c"');
    expect(text).toContain('"__proto__":"p"');
  });
});

describe("bounds of the other requests", () => {
  const zero = "tok_0000000000000000000000";
  test.each<[string, string, () => Promise<unknown>]>([
    [
      "RevokeToken.reason of 201 characters",
      "reason",
      () => sallyport.admin.tokens.revokeToken({ target: { case: "id", value: zero }, reason: "r".repeat(201) }),
    ],
    ["RevokeToken without a target", "target", () => sallyport.admin.tokens.revokeToken({})],
    [
      "RevokeTokens with 1,001 ids",
      "ids",
      () => sallyport.admin.tokens.revokeTokens({ ids: Array.from({ length: 1001 }, () => zero) }),
    ],
    [
      "RevokeTokens with 1,001 hints",
      "hints",
      () => sallyport.admin.tokens.revokeTokens({ hints: Array.from({ length: 1001 }, () => "h") }),
    ],
    [
      "RevokeTokens with 1,001 strings",
      "token_strings",
      () => sallyport.admin.tokens.revokeTokens({ tokenStrings: Array.from({ length: 1001 }, () => "s") }),
    ],
    [
      "RevokeTokens before the largest int64",
      "created_before",
      () => sallyport.admin.tokens.revokeTokens({ createdBefore: seconds(9_223_372_036_854_775_807n) }),
    ],
    [
      "RevokeTokens used before the year 0",
      "last_used_before",
      () => sallyport.admin.tokens.revokeTokens({ lastUsedBefore: seconds(-62_135_596_801n) }),
    ],
    [
      "RevokeTokens expiring after the largest int64",
      "expires_after",
      () => sallyport.admin.tokens.revokeTokens({ expiresAfter: seconds(9_223_372_036_854_775_807n) }),
    ],
    [
      "ListTokens after the largest int64",
      "created_after",
      () => sallyport.admin.tokens.listTokens({ createdAfter: seconds(9_223_372_036_854_775_807n) }),
    ],
    [
      "ListTokens used before the year 0",
      "last_used_before",
      () => sallyport.admin.tokens.listTokens({ lastUsedBefore: seconds(-62_135_596_801n) }),
    ],
    [
      "ListAuditEvents before the largest int64",
      "before",
      () => sallyport.admin.audit.listAuditEvents({ before: seconds(9_223_372_036_854_775_807n) }),
    ],
    ["GetToken of no id", "id", () => sallyport.admin.tokens.getToken({ id: "" })],
    ["GetToken of what is no id", "id", () => sallyport.admin.tokens.getToken({ id: "tok_1" })],
    [
      "UpdateToken without a token",
      "token",
      () => sallyport.admin.tokens.updateToken({ updateMask: { paths: ["disabled"] } }),
    ],
    ["UpdateToken without a mask", "update_mask", () => sallyport.admin.tokens.updateToken({ token: { id: zero } })],
    [
      "an email of 255 characters",
      "principal.email",
      () => sallyport.admin.principals.createPrincipal({ principal: { name: "bot:e", email: "e".repeat(255) } }),
    ],
    [
      "an owner that is no principal",
      "principal.owner",
      () => sallyport.admin.principals.createPrincipal({ principal: { name: "bot:e", owner: "ann" } }),
    ],
    [
      "a state that does not exist",
      "principal.state",
      () => sallyport.admin.principals.createPrincipal({ principal: { name: "bot:e", state: 77 as 1 } }),
    ],
  ])("%s is refused by the name of the field", async (_, field, call) => {
    const refused = await failure(call());
    expect(refused).toMatchObject({ code: "InvalidArgument", reason: "INVALID_FIELD" });
    expect(refused.violations.map((violation) => violation.field.split("[")[0])).toContain(field);
  });

  test("times at both ends of protobuf's range are times", async () => {
    for (const at of [seconds(-62_135_596_800n), seconds(253_402_300_799n)]) {
      expect(
        await outcome(sallyport.admin.tokens.listTokens({ createdAfter: at, createdBefore: at, lastUsedBefore: at })),
      ).toBe("OK");
      expect(await outcome(sallyport.admin.audit.listAuditEvents({ after: at, before: at }))).toBe("OK");
      expect(await outcome(sallyport.admin.tokens.revokeTokens({ createdBefore: at, dryRun: true }))).toBe("OK");
    }
  });

  test("a body beyond the method's size is RESOURCE_EXHAUSTED, one just below it is read", async () => {
    const big = { profile: "pat", principal: "user:ann", displayName: "x", description: "d".repeat(300 * 1024) };
    expect(await outcome(sallyport.createToken(big))).toBe("LIMIT_EXCEEDED");
    expect(await outcome(sallyport.createToken({ ...big, description: "d".repeat(200 * 1024) }))).toBe("INVALID_FIELD");
    expect(
      toBinary(TokenAdmin.method.createToken.input, create(TokenAdmin.method.createToken.input, big)).length,
    ).toBeGreaterThan(262_144);
  });
});
