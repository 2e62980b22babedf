import { describe, expect, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import { AppError } from "../../src/domain/errors.ts";
import { Secret } from "../../src/domain/secret.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { Callers, permit } from "../../src/rpc/caller.ts";
import { ALL_METHODS, methodOf, REVOKE_ENDPOINT } from "../../src/rpc/methods.ts";
import type { Peer } from "../../src/rpc/peer.ts";
import type { ValidationResult } from "../../src/validation/validate.ts";
import { snapshot } from "../support/token-snapshot.ts";

const RPCS = ALL_METHODS.filter(({ path }) => !path.startsWith("/v1/"));

const caller = (kind: Caller["kind"], scopes: string[], principal = "user:ann"): Caller => ({
  kind,
  provenance: "x",
  tenant: "acme",
  principal,
  scopes,
  address: "",
  direct: true,
});

/** The calls that are open to a caller, with its reach. */
const reached = (by: Caller) =>
  RPCS.flatMap((method) => {
    try {
      return [`${method.name.split("/")[1]}:${permit(by, method)}`];
    } catch {
      return [];
    }
  });

describe("the table of permissions", () => {
  test("only health and reflection are open, and Check is for trusted peers alone", () => {
    const named = (permission: string) => RPCS.filter((one) => one.permission === permission).map(({ name }) => name);
    expect(named("open").every((name) => name.startsWith("grpc."))).toBe(true);
    expect(named("open")).toHaveLength(5);
    expect(named("any caller")).toEqual(["sallyport.v1.ServerInfo/GetServerInfo"]);
    expect(named("trusted peer")).toEqual(["envoy.service.auth.v3.Authorization/Check"]);
  });

  test("an endpoint has the permission of the RPC that does the same", () => {
    const { permission, own, name } = methodOf(TokenAdmin.method.revokeToken);
    expect(REVOKE_ENDPOINT).toMatchObject({ permission, own, name });
  });

  test("without any scope, a token reaches only what is its own, a session its own mints too, a certificate nothing", () => {
    const itself = "GetServerInfo:own";
    const own = ["GetToken:own", "ListTokens:own", "RevokeToken:own", "RevokeTokens:own", "RotateToken:own", itself];
    expect(reached(caller("token", []))).toEqual(own);
    expect(reached(caller("session", []))).toEqual([
      "CreateToken:own",
      "GetToken:own",
      "ListTokens:own",
      "UpdateToken:own",
      "RevokeToken:own",
      "RevokeTokens:own",
      "RotateToken:own",
      itself,
    ]);
    expect(reached(caller("mtls", [], ""))).toEqual([itself]);
  });

  test("a permission opens the calls it is for, in the caller's tenant, and no other; operator opens all, everywhere", () => {
    const opened = (scope: string) =>
      reached(caller("mtls", [scope], "")).filter((name) => name !== "GetServerInfo:own");
    const principals = ["Create", "Get", "List", "Update", "Delete"].map((verb) =>
      verb === "List" ? "ListPrincipals:tenant" : `${verb}Principal:tenant`,
    );
    expect(opened("sallyport.tokens.create")).toEqual([
      "CreateToken:tenant",
      "UpdateToken:tenant",
      "RotateToken:tenant",
    ]);
    expect(opened("sallyport.tokens.read")).toEqual([
      "GetToken:tenant",
      "ListTokens:tenant",
      "GetRole:tenant",
      "ListRoles:tenant",
    ]);
    expect(opened("sallyport.roles.write")).toEqual(["CreateRole:tenant", "UpdateRole:tenant", "DeleteRole:tenant"]);
    expect(opened("sallyport.federation.write")).toEqual(
      ["CreateTrustRule", "GetTrustRule", "ListTrustRules", "UpdateTrustRule", "DeleteTrustRule"].map(
        (name) => `${name}:tenant`,
      ),
    );
    expect(opened("sallyport.tokens.revoke")).toEqual([
      ...["RevokeToken:tenant", "RevokeTokens:tenant"],
      "DetachTenant:tenant",
    ]);
    expect(opened("sallyport.principals.write")).toEqual(principals);
    expect(opened("sallyport.audit.read")).toEqual(["ListAuditEvents:tenant", "ListAccessEvents:tenant"]);
    expect(opened("sallyport.validate")).toEqual([
      "ValidateToken:tenant",
      "BatchValidateTokens:tenant",
      "WatchChanges:tenant",
    ]);
    expect(opened("sallyport.reasons")).toEqual([]);
    expect(opened("repo:*")).toEqual([]);
    expect(opened("sallyport.admin").some((method) => /(Create|Get|List|Update)Tenant/.test(method))).toBe(false);
    expect(opened("sallyport.admin")).toHaveLength(28);
    expect(opened("sallyport.operator").every((method) => method.endsWith(":everywhere"))).toBe(true);
    expect(opened("sallyport.operator")).toHaveLength(34);
  });
});

describe("the identity of a caller", () => {
  const here: Peer = { listener: "admin", address: "127.0.0.1", from: "loopback", sans: [], sanAllowed: false };
  const audited: string[] = [];
  const alarms: string[] = [];
  let auditAway = false;
  const callers = (answer: ValidationResult, breakGlass?: string) =>
    new Callers({
      validate: () => answer,
      audit: {
        append: async (_actor, act) => {
          if (auditAway) throw new AppError("NOT_DONE", "away");
          audited.push(act.action);
        },
        list: async () => ({ rows: [] }),
      },
      clock: { mono: () => 0, wall: () => 0 },
      events: { alarm: (what) => alarms.push(what) },
      breakGlass: breakGlass === undefined ? undefined : new Secret(breakGlass),
      mtls: [{ san: "spiffe://acme/ci", tenant: "acme", permissions: ["sallyport.tokens.create"], scopes: ["repo:*"] }],
    });
  const refused: ValidationResult = { verdict: "INVALID_TOKEN", tier: "none" };
  const secret = "b".repeat(32);
  const ask = (of: Callers, authorization: string | null, peer = here) =>
    of.authenticate(peer, authorization, methodOf(TokenAdmin.method.getToken), "r");

  test("a call without a credential is nobody, even if no break-glass secret is set", async () => {
    for (const header of [null, "", "Bearer ", "Bearer", "Basic eDp5", "Bearer a b", "Bearer a, Bearer b"]) {
      await expect(ask(callers(refused), header), String(header)).rejects.toMatchObject({
        reason: "CALLER_UNAUTHENTICATED",
      });
    }
  });

  test("the break-glass secret makes the caller an operator, and each use is audited before it does anything", async () => {
    audited.length = 0;
    expect(await ask(callers(refused, secret), `Bearer ${secret}`)).toMatchObject({
      kind: "break-glass",
      provenance: "break-glass",
      scopes: ["sallyport.operator"],
    });
    expect(audited).toEqual(["caller.break-glass"]);
    expect(alarms).toEqual(["break_glass_used"]);
    await expect(ask(callers(refused, secret), `Bearer ${secret}x`)).rejects.toMatchObject({
      reason: "CALLER_UNAUTHENTICATED",
    });
    expect(audited).toHaveLength(1);
    expect(alarms).toHaveLength(1);
  });

  test("the break-glass secret is refused if its use cannot be audited", async () => {
    auditAway = true;
    await expect(ask(callers(refused, secret), `Bearer ${secret}`)).rejects.toMatchObject({ reason: "NOT_DONE" });
    auditAway = false;
  });

  test("a certificate gives the permissions that the configuration grants to exactly its SAN", async () => {
    const peer = { ...here, sans: ["spiffe://acme/ci"] };
    expect(await ask(callers(refused), null, peer)).toMatchObject({
      kind: "mtls",
      provenance: "mtls:spiffe://acme/ci",
      tenant: "acme",
      principal: "",
      scopes: ["sallyport.tokens.create", "repo:*"],
    });
    await expect(ask(callers(refused), null, { ...here, sans: ["spiffe://acme/ci2"] })).rejects.toMatchObject({
      reason: "CALLER_UNAUTHENTICATED",
    });
    // A bearer that is not good is not made good by a certificate.
    await expect(ask(callers(refused), "Bearer nope", peer)).rejects.toMatchObject({
      reason: "CALLER_UNAUTHENTICATED",
    });
  });

  test("a caller whose own token cannot be validated gets STORE_UNAVAILABLE, not CALLER_UNAUTHENTICATED", async () => {
    await expect(ask(callers({ verdict: "UNDETERMINED", tier: "none" }), "Bearer x")).rejects.toMatchObject({
      reason: "STORE_UNAVAILABLE",
    });
  });

  test("a live token calls as its principal, shown by its hint; one that is refused for its address is nobody", async () => {
    const live = snapshot(1, { scopes: ["repo:read"], hint: "sp_bot_1abcdefgh" });
    expect(await ask(callers({ verdict: "ALLOW", snapshot: live, tier: "l1" }), "bEaReR x")).toEqual({
      kind: "token",
      provenance: "token:sp_bot_1abcdefgh",
      tenant: "acme",
      principal: "bot:ci",
      scopes: ["repo:read"],
      tokenId: live.id,
      address: "127.0.0.1",
      direct: true,
    });
    await expect(
      ask(callers({ verdict: "ADDRESS_NOT_ALLOWED", snapshot: live, tier: "l1" }), "Bearer x"),
    ).rejects.toMatchObject({ reason: "CALLER_UNAUTHENTICATED" });
  });
});
