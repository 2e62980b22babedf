import type { DescService } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import { AppError } from "../../src/domain/errors.ts";
import { Secret } from "../../src/domain/secret.ts";
import { Authorization } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { Health } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../src/gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../src/gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { AuditLog } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { PrincipalAdmin } from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { TenantAdmin } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { TokenValidator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { Callers, PERMISSIONS, permit, rowOf } from "../../src/rpc/caller.ts";
import type { Peer } from "../../src/rpc/peer.ts";
import type { ValidationResult } from "../../src/validation/validate.ts";
import { snapshot } from "../support/token-snapshot.ts";

const SERVICES: readonly DescService[] = [
  TokenAdmin,
  PrincipalAdmin,
  TenantAdmin,
  AuditLog,
  TokenValidator,
  Authorization,
  Health,
  ServerReflection,
  ServerReflectionAlpha,
];

const caller = (kind: Caller["kind"], scopes: string[], principal = "user:ann"): Caller => ({
  kind,
  provenance: "x",
  tenant: "acme",
  principal,
  scopes,
  address: "",
  direct: true,
});

describe("the table of permissions", () => {
  test("every method of every service has a row, and no row stands for a method that is not there", () => {
    const methods = SERVICES.flatMap((service) => service.methods.map(({ name }) => `${service.typeName}/${name}`));
    expect(Object.keys(PERMISSIONS).sort()).toEqual(methods.sort());
  });

  test("only health and reflection are open", () => {
    const open = Object.keys(PERMISSIONS).filter((method) => PERMISSIONS[method] === "open");
    expect(open.every((method) => method.startsWith("grpc."))).toBe(true);
  });

  test("a method without a row is refused, also one that is named like a part of every object", () => {
    for (const method of ["sallyport.v1.TokenAdmin/Dump", "constructor", "__proto__", "toString", ""]) {
      expect(() => rowOf(method)).toThrow(expect.objectContaining({ reason: "CALLER_FORBIDDEN" }));
    }
  });

  test("without any scope, a token reaches only what is its own, a session its own mints too, a certificate nothing", () => {
    const reached = (kind: Caller["kind"], principal: string) =>
      Object.entries(PERMISSIONS).flatMap(([method, row]) => {
        if (row === "open") return [];
        try {
          return [`${method.split("/")[1]}:${permit(caller(kind, [], principal), row)}`];
        } catch {
          return [];
        }
      });
    const own = ["GetToken:own", "ListTokens:own", "RevokeToken:own", "RevokeTokens:own", "RotateToken:own"];
    expect(reached("token", "user:ann")).toEqual(own);
    expect(reached("session", "user:ann")).toEqual([
      "CreateToken:own",
      "GetToken:own",
      "ListTokens:own",
      "UpdateToken:own",
      "RevokeToken:own",
      "RevokeTokens:own",
      "RotateToken:own",
    ]);
    expect(reached("mtls", "")).toEqual([]);
  });

  test("a permission opens the calls it is for, in the caller's tenant, and no other; operator opens all, everywhere", () => {
    const opened = (scope: string) =>
      Object.entries(PERMISSIONS).flatMap(([method, row]) => {
        if (row === "open") return [];
        try {
          return [`${method.split("/")[1]}:${permit(caller("mtls", [scope], ""), row)}`];
        } catch {
          return [];
        }
      });
    const principals = ["Create", "Get", "List", "Update", "Delete"].map((verb) =>
      verb === "List" ? "ListPrincipals:tenant" : `${verb}Principal:tenant`,
    );
    expect(opened("sallyport.tokens.create")).toEqual([
      "CreateToken:tenant",
      "UpdateToken:tenant",
      "RotateToken:tenant",
    ]);
    expect(opened("sallyport.tokens.read")).toEqual(["GetToken:tenant", "ListTokens:tenant"]);
    expect(opened("sallyport.tokens.revoke")).toEqual(["RevokeToken:tenant", "RevokeTokens:tenant"]);
    expect(opened("sallyport.principals.write")).toEqual(principals);
    expect(opened("sallyport.audit.read")).toEqual(["ListAuditEvents:tenant"]);
    expect(opened("sallyport.validate")).toEqual([
      "ValidateToken:tenant",
      "BatchValidateTokens:tenant",
      "Check:tenant",
    ]);
    expect(opened("sallyport.reasons")).toEqual([]);
    expect(opened("repo:*")).toEqual([]);
    expect(opened("sallyport.admin").some((method) => method.includes("Tenant"))).toBe(false);
    expect(opened("sallyport.admin")).toHaveLength(16);
    expect(opened("sallyport.operator").every((method) => method.endsWith(":everywhere"))).toBe(true);
    expect(opened("sallyport.operator")).toHaveLength(20);
  });
});

describe("who calls", () => {
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
    of.authenticate(peer, authorization, "sallyport.v1.TokenAdmin/GetToken", "r");

  test("without a credential nobody; an unset break-glass secret is not the empty one", async () => {
    for (const header of [null, "", "Bearer ", "Bearer", "Basic eDp5", "Bearer a b", "Bearer a, Bearer b"]) {
      await expect(ask(callers(refused), header), String(header)).rejects.toMatchObject({
        reason: "CALLER_UNAUTHENTICATED",
      });
    }
  });

  test("the break-glass secret is an operator, and each use is audited before it does anything", async () => {
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

  test("where its use can not be audited, the break-glass secret opens nothing", async () => {
    auditAway = true;
    await expect(ask(callers(refused, secret), `Bearer ${secret}`)).rejects.toMatchObject({ reason: "NOT_DONE" });
    auditAway = false;
  });

  test("a certificate's SAN gives what the configuration says, exactly and only for that SAN", async () => {
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

  test("a caller whose own token can not be judged is told that the store is away, not that it is nobody", async () => {
    await expect(ask(callers({ verdict: "UNDETERMINED", tier: "none" }), "Bearer x")).rejects.toMatchObject({
      reason: "STORE_UNAVAILABLE",
    });
  });

  test("a live token is its principal, known by its hint; one that is refused for its address is nobody", async () => {
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
