import type { ServiceImpl } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import {
  type ListTokensRequest,
  type TokenAdmin,
  TokenState,
  type UpdateTokenRequest,
} from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { against, effect, IN_FORCE, token } from "./token-peer.ts";

describe("tokens list", () => {
  it("sends the filters and shows hint, state and remaining lifetime", async () => {
    let sent: ListTokensRequest | undefined;
    const listTokens = (request: ListTokensRequest) => {
      sent = request;
      return { tokens: [token, { ...token, id: "tok_2", displayName: "", expireTime: undefined }] };
    };
    const filters = ["--principal", "user:ann", "--profile", "pat", "--state", "not-yet-valid", "--hint", "sp_pat_1"];
    const before = Date.now() - 36 * 3_600_000;
    const { out, err } = await against({ listTokens }, ["tokens", "list", ...filters, "--last-used-before", "36h"]);
    expect(sent).toMatchObject({
      principal: "user:ann",
      profile: "pat",
      state: TokenState.NOT_YET_VALID,
      hint: "sp_pat_1",
      pageSize: 50,
    });
    expect(Number(sent?.lastUsedBefore?.seconds) * 1000).toBeGreaterThan(before - 1000);
    expect(Number(sent?.lastUsedBefore?.seconds) * 1000).toBeLessThanOrEqual(Date.now() - 36 * 3_600_000);
    expect(out.split("\n").map((line) => line.split(/ {2,}/))).toEqual([
      ["ID", "HINT", "PRINCIPAL", "NAME", "STATE", "EXPIRES", "LAST USED", "USES"],
      ["tok_1", "sp_pat_1x7Kd02Qa", "user:ann", "laptop", "ACTIVE", "in 90d", "never", "0"],
      ["tok_2", "sp_pat_1x7Kd02Qa", "user:ann", "-", "ACTIVE", "never", "never", "0"],
      [""],
    ]);
    expect(err).toBe("");
  });

  /** A listener with 1234 tokens, in pages of at most 500. */
  function many(sizes: number[]): Partial<ServiceImpl<typeof TokenAdmin>> {
    return {
      listTokens: ({ pageSize, pageToken }) => {
        sizes.push(pageSize);
        const start = Number(pageToken || 0);
        const end = Math.min(start + pageSize, 1234);
        const tokens = Array.from({ length: end - start }, (_, index) => ({ id: `tok_${start + index}` }));
        return { tokens, nextPageToken: end < 1234 ? String(end) : "" };
      },
    };
  }

  it.each([
    [[], [50], 50],
    [["--limit", "7"], [7], 7],
    [["--limit", "700"], [500, 200], 700],
    [["--all"], [500, 500, 500], 1234],
  ])("turns the pages as %j asks", async (flags, expected, count) => {
    const sizes: number[] = [];
    const { out, err } = await against(many(sizes), ["tokens", "list", ...flags]);
    expect(sizes).toEqual(expected);
    expect(out.trimEnd().split("\n")).toHaveLength(count + 1);
    expect(out).toContain(`tok_${count - 1} `);
    expect(err).toBe(count < 1234 ? "There are more: --limit COUNT, or --all.\n" : "");
  });

  it("prints all pages as one JSON document", async () => {
    const { out, err } = await against(many([]), ["tokens", "list", "--limit", "700", "--json"]);
    const { tokens, nextPageToken } = JSON.parse(out);
    expect([tokens.length, nextPageToken, err]).toEqual([700, "700", ""]);
  });
});

describe("tokens get and update", () => {
  it("gets one token by its id", async () => {
    const { out } = await against({ getToken: ({ id }) => ({ token: { ...token, id } }) }, ["tokens", "get", "tok_9"]);
    expect(out).toMatch(/^id +tok_9$/m);
  });

  it.each([
    [["--display-name", "n"], ["display_name"], { displayName: "n" }],
    [["--scope", "a", "--scope", "b", "--enable"], ["scopes", "disabled"], { scopes: ["a", "b"], disabled: false }],
    [["--disable", "--etag", "e"], ["disabled"], { disabled: true, etag: "e" }],
    [["--no-expiry"], ["expire_time"], {}],
    [["--expires-at", "2027-01-15T08:00:00Z"], ["expire_time"], { expireTime: { seconds: 1_800_000_000n } }],
    [["--tenants", "blue", "--tenants", "red"], ["tenants"], { tenants: ["blue", "red"] }],
    [["--clear", "tenants"], ["tenants"], { tenants: [] }],
    [["--clear", "scopes", "--clear", "description"], ["scopes", "description"], { scopes: [], description: "" }],
  ])("update %j masks just the fields given", async (flags, paths, fields) => {
    let sent: UpdateTokenRequest | undefined;
    const updateToken = (request: UpdateTokenRequest) => {
      sent = request;
      return { token, effect };
    };
    const { exit, out } = await against({ updateToken }, ["tokens", "update", "tok_1", ...flags]);
    expect(exit).toBe(0);
    expect(sent).toMatchObject({ token: { id: "tok_1", ...fields }, updateMask: { paths }, noWait: false });
    expect(sent?.token?.expireTime !== undefined).toBe("expireTime" in fields);
    expect(out).toContain(IN_FORCE);
  });

  it.each([[[]], [["--disable", "--enable"]], [["--clear", "id"]], [["--no-wait"]]])(
    "update %j is a usage error",
    async (flags) => {
      const { exit, headers } = await against({}, ["tokens", "update", "tok_1", ...flags]);
      expect([exit, headers.length]).toEqual([2, 0]);
    },
  );
});

describe("tokens get", () => {
  it.each([
    ["of a role", { scopes: ["a"], roles: ["deployer"], effectiveScopes: ["a", "b"] }, "a b"],
    ["that its parent lacks", { scopes: ["a", "b"], roles: [], effectiveScopes: ["a"] }, "a"],
    ["of its own only", { scopes: ["a", "b"], roles: [], effectiveScopes: ["a", "b"] }, undefined],
  ])("shows the scopes that count, beside its own: %s", async (_, fields, expected) => {
    const getToken = () => ({ token: { ...token, ...fields } });
    const { out } = await against({ getToken }, ["tokens", "get", "tok_1"]);
    expect(/^effective scopes:? *(.*)$/m.exec(out)?.[1]).toBe(expected);
    expect(/^roles:? *(.*)$/m.exec(out)?.[1]).toBe(fields.roles[0]);
  });

  it("lists the tokens of others that are attached to a tenant, by whose they are", async () => {
    let sent: ListTokensRequest | undefined;
    const listTokens = (request: ListTokensRequest) => {
      sent = request;
      return { tokens: [{ id: "tok_1", hint: token.hint, tenant: "acme", principal: "bot:ci" }] };
    };
    const { out } = await against({ listTokens }, ["tokens", "list", "--attached", "--tenant", "blue"]);
    expect(sent).toMatchObject({ attached: true, tenant: "blue" });
    expect(out).toMatch(/^ID +HINT +TENANT +PRINCIPAL/);
    expect(out).toMatch(/^tok_1 .* acme +bot:ci/m);
  });

  it("is listed by role", async () => {
    let sent: ListTokensRequest | undefined;
    const listTokens = (request: ListTokensRequest) => {
      sent = request;
      return { tokens: [] };
    };
    await against({ listTokens }, ["tokens", "list", "--role", "deployer"]);
    expect(sent?.role).toBe("deployer");
  });
});
