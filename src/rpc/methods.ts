import type { DescMethod, DescService } from "@bufbuild/protobuf";
import type { Permission } from "../domain/caller.ts";
import { Authorization } from "../gen/envoy/service/auth/v3/external_auth_pb.ts";
import { Health } from "../gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { AuditLog } from "../gen/sallyport/v1/audit_log_pb.ts";
import { FederationAdmin } from "../gen/sallyport/v1/federation_admin_pb.ts";
import { PrincipalAdmin } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { RoleAdmin } from "../gen/sallyport/v1/role_admin_pb.ts";
import { ServerInfo } from "../gen/sallyport/v1/server_info_pb.ts";
import { TenantAdmin } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "../gen/sallyport/v1/token_admin_pb.ts";
import { TokenValidator } from "../gen/sallyport/v1/token_validator_pb.ts";
import type { AdmissionClass } from "./admission.ts";
import type { Peer } from "./peer.ts";

/** The limits of one call. `deadlineMs` 0 means the client's own deadline, or none (server streams). */
export interface RpcLimits {
  readonly readMaxBytes: number;
  readonly deadlineMs: number;
  /** True if gzip is accepted. Otherwise every encoding but identity is UNIMPLEMENTED. */
  readonly gzip: boolean;
}

/** The facts of a method that are not in its `.proto`. */
interface Row {
  /**
   * `open`: no credential. `any caller`: a live credential, without any permission. `trusted peer`: the connection alone
   * decides, and no token opens it.
   */
  readonly permission: Permission | "open" | "any caller" | "trusted peer";
  /** The callers that may call without the permission. Such a caller reaches only its own principal's tokens. */
  readonly own: "nobody" | "session" | "anyone";
  /** The slots that a call waits for. `none`: it takes none. */
  readonly admission: AdmissionClass | "none";
  readonly limits: RpcLimits;
  /**
   * The effect of a repeat. `read`: nothing ever changes. `same`: all stays as the first call left it. `request_id`: the
   * first answer comes again where both carry the same id. `exists`: refused, because the first made the object.
   */
  readonly repeat: "read" | "same" | "request_id" | "exists";
  /** The actions of the audit rows that a successful call writes, one or the other. */
  readonly audit: readonly string[];
}

/** One RPC or HTTP endpoint, with everything that the steps of a call need to know about it. */
export interface Method extends Row {
  /** `sallyport.v1.TokenAdmin/CreateToken`: its name in logs, metrics and audit rows. */
  readonly name: string;
  readonly path: string;
  /** The start of the paths that belong to it: its service, or the endpoint itself. */
  readonly start: string;
  /** Where it is served; health is on every listener. */
  readonly listener: Peer["listener"] | "every";
}

const KiB = 1024;
const limits = (KiBs: number, deadlineMs: number, gzip = false): RpcLimits => ({
  readMaxBytes: KiBs * KiB,
  deadlineMs,
  gzip,
});
const ADMIN = limits(256, 10_000, true);
const BULK = limits(1024, 120_000, true);
const REFLECTION = limits(64, 0, true);

function row(
  permission: Row["permission"],
  own: Row["own"],
  admission: Row["admission"],
  limits: RpcLimits,
  repeat: Row["repeat"],
  ...audit: string[]
): Row {
  return { permission, own, admission, limits, repeat, audit };
}

/** The rows of a service. A method that has none, and a row for a method that does not exist, are type errors. */
function service<S extends DescService>(
  listener: Method["listener"],
  desc: S,
  rows: { readonly [M in keyof S["method"]]: Row },
): [DescMethod, Method][] {
  return desc.methods.map((method) => {
    const name = `${desc.typeName}/${method.name}`;
    return [
      method,
      { name, path: `/${name}`, start: `/${desc.typeName}/`, listener, ...rows[method.localName as keyof S["method"]] },
    ];
  });
}

/**
 * THE table: every method of every service, by its generated descriptor. The columns are permission, who may call it for
 * itself, admission class, limits, effect of a repeat, and audit actions.
 */
const METHODS: ReadonlyMap<DescMethod, Method> = new Map([
  ...service("admin", TokenAdmin, {
    createToken: row("sallyport.tokens.create", "session", "admin", ADMIN, "request_id", "token.create"),
    getToken: row("sallyport.tokens.read", "anyone", "admin", ADMIN, "read"),
    listTokens: row("sallyport.tokens.read", "anyone", "admin", ADMIN, "read"),
    updateToken: row("sallyport.tokens.create", "session", "revoke", ADMIN, "same", "token.update"),
    revokeToken: row("sallyport.tokens.revoke", "anyone", "revoke", ADMIN, "same", "token.revoke"),
    revokeTokens: row("sallyport.tokens.revoke", "anyone", "revoke", BULK, "same", "token.revoke", "tokens.revoke"),
    detachTenant: row("sallyport.tokens.revoke", "nobody", "revoke", ADMIN, "same", "token.detach"),
    rotateToken: row("sallyport.tokens.create", "anyone", "admin", ADMIN, "request_id", "token.rotate"),
  }),
  ...service("admin", PrincipalAdmin, {
    createPrincipal: row("sallyport.principals.write", "nobody", "admin", ADMIN, "exists", "principal.create"),
    getPrincipal: row("sallyport.principals.write", "nobody", "admin", ADMIN, "read"),
    listPrincipals: row("sallyport.principals.write", "nobody", "admin", ADMIN, "read"),
    updatePrincipal: row("sallyport.principals.write", "nobody", "revoke", ADMIN, "same", "principal.update"),
    deletePrincipal: row("sallyport.principals.write", "nobody", "revoke", ADMIN, "same", "principal.delete"),
  }),
  ...service("admin", TenantAdmin, {
    createTenant: row("sallyport.operator", "nobody", "admin", ADMIN, "exists", "tenant.create"),
    getTenant: row("sallyport.operator", "nobody", "admin", ADMIN, "read"),
    listTenants: row("sallyport.operator", "nobody", "admin", ADMIN, "read"),
    updateTenant: row("sallyport.operator", "nobody", "revoke", ADMIN, "same", "tenant.update"),
  }),
  ...service("admin", RoleAdmin, {
    createRole: row("sallyport.roles.write", "nobody", "admin", ADMIN, "exists", "role.create"),
    getRole: row("sallyport.tokens.read", "nobody", "admin", ADMIN, "read"),
    listRoles: row("sallyport.tokens.read", "nobody", "admin", ADMIN, "read"),
    updateRole: row("sallyport.roles.write", "nobody", "revoke", ADMIN, "same", "role.update"),
    deleteRole: row("sallyport.roles.write", "nobody", "revoke", ADMIN, "same", "role.delete"),
  }),
  ...service("admin", FederationAdmin, {
    createTrustRule: row("sallyport.federation.write", "nobody", "admin", ADMIN, "exists", "rule.create"),
    getTrustRule: row("sallyport.federation.write", "nobody", "admin", ADMIN, "read"),
    listTrustRules: row("sallyport.federation.write", "nobody", "admin", ADMIN, "read"),
    updateTrustRule: row("sallyport.federation.write", "nobody", "revoke", BULK, "same", "rule.update", "token.revoke"),
    deleteTrustRule: row("sallyport.federation.write", "nobody", "revoke", BULK, "same", "rule.delete", "token.revoke"),
  }),
  ...service("admin", AuditLog, {
    listAuditEvents: row("sallyport.audit.read", "nobody", "admin", ADMIN, "read"),
    listAccessEvents: row("sallyport.audit.read", "nobody", "admin", ADMIN, "read"),
  }),
  ...service("admin", ServerInfo, {
    getServerInfo: row("any caller", "anyone", "admin", limits(4, 2_000, true), "read"),
    listInstances: row("sallyport.operator", "nobody", "admin", limits(4, 5_000, true), "read"),
  }),
  ...service("data", TokenValidator, {
    validateToken: row("sallyport.validate", "nobody", "validate", limits(64, 2_000), "read"),
    batchValidateTokens: row("sallyport.validate", "nobody", "validate", limits(1024, 2_000), "read"),
    watchChanges: row("sallyport.validate", "nobody", "none", limits(4, 2_000), "read"), // few: feed.max_clients
  }),
  ...service("data", Authorization, {
    check: row("trusted peer", "nobody", "validate", limits(128, 150), "read"),
  }),
  ...service("every", Health, {
    check: row("open", "anyone", "health", limits(4, 2_000), "read"),
    list: row("open", "anyone", "health", limits(4, 2_000), "read"),
    watch: row("open", "anyone", "none", limits(4, 0), "read"), // few: limited per connection, as all streams are
  }),
  ...service("admin", ServerReflection, {
    serverReflectionInfo: row("open", "anyone", "none", REFLECTION, "read"),
  }),
  ...service("admin", ServerReflectionAlpha, {
    serverReflectionInfo: row("open", "anyone", "none", REFLECTION, "read"),
  }),
]);

/** The row of a method. One without a row is a bug: no listener that would serve it starts. */
export function methodOf(desc: DescMethod): Method {
  const found = METHODS.get(desc);
  if (found === undefined) throw new Error(`${desc.parent.typeName}/${desc.name} has no row in rpc/methods.ts`);
  return found;
}

function endpoint(listener: Method["listener"], path: string, name: string, row: Row): Method {
  return { ...row, name, path, start: path, listener };
}

const REVOKE = methodOf(TokenAdmin.method.revokeToken);
/** RFC 7009: RevokeToken by another way. It has the same rights, and the same name in log and audit. */
export const REVOKE_ENDPOINT = endpoint("admin", "/v1/revoke", REVOKE.name, { ...REVOKE, limits: limits(64, 10_000) });

/** RFC 8693: a workload's JWT for a token. The JWT is the credential, and no other is read. */
export const EXCHANGE_ENDPOINT = endpoint(
  "admin",
  "/v1/token",
  "token-exchange",
  row("open", "anyone", "admin", limits(64, 10_000), "exists", "token.create"),
);

/** RFC 7662. */
export const INTROSPECT_ENDPOINT = endpoint(
  "data",
  "/v1/introspect",
  "introspect",
  row("sallyport.validate", "nobody", "none", limits(64, 2_000), "read"),
);

/** The HTTP check, at every path that begins so. */
export const CHECK_ENDPOINT = endpoint(
  "data",
  "/v1/check/",
  "http-check",
  row("trusted peer", "nobody", "validate", limits(64, 150), "read"),
);

/** The public signing keys (RFC 7517), on the data and the admin listener. */
export const JWKS_PATH = "/.well-known/jwks.json";

/** Every RPC and every endpoint. */
export const ALL_METHODS: readonly Method[] = [
  ...METHODS.values(),
  REVOKE_ENDPOINT,
  EXCHANGE_ENDPOINT,
  INTROSPECT_ENDPOINT,
  CHECK_ENDPOINT,
];
