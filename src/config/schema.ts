import { z } from "zod";
import { PERMISSIONS } from "../domain/caller.ts";
import { isCidr } from "../domain/networks.ts";
import { SIGNING_ALGORITHMS } from "../domain/signing-keys.ts";
import { duration } from "./duration.ts";

const SIZES = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 } as const;

/** A size in bytes, written `"64 MiB"` or as a number. */
const size = z.union([
  z.number().int().positive(),
  z
    .string()
    .regex(/^\d{1,9} ?(B|KiB|MiB|GiB)$/, 'must be a size such as "64 MiB"')
    .transform((text) => {
      const [, number, unit] = /^(\d+) ?(\D+)$/.exec(text) as unknown as [string, string, keyof typeof SIZES];
      return Number(number) * SIZES[unit];
    }),
]);

export const bind = z
  .string()
  .regex(/^(unix:.+|(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:]+\]|localhost):\d{1,5})$/, "must be IP:port or unix:/path");

const network = z.string().refine(isCidr, "must be an IP address or a network such as 10.0.0.0/8");

const databaseUrl = z
  .string()
  .regex(/^postgres(ql)?:\/\//, "must be postgres://user:password@host:port/database")
  .regex(/^[^#]*$/, "must not hold a #: write it %23 (in a password, too)");

/** An address of an issuer: HTTPS, or HTTP on this machine. No user, query or fragment. */
const issuerUrl = z
  .string()
  .max(512, "must have at most 512 characters")
  .regex(
    /^(https:\/\/[^\s/?#@\\]+|http:\/\/(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(:\d{1,5})?)(\/[^\s?#\\]*)?$/,
    "must be https://host/path, or http:// on loopback, without user, query and fragment",
  );

/** The grammar of a tenant's id and of a role's name. */
const SLUG = /^[a-z][a-z0-9-]{0,62}$/;
const NO_SLUG = "must be a lower-case letter, then up to 62 of a-z 0-9 -";
/** A header that a policy names. Those that route or frame a request, or carry another credential or identity, are none. */
const NAMED_HEADER =
  /^header:(?!(?:host|te|trailer|upgrade|connection|keep-alive|proxy-connection|transfer-encoding|content-length|authorization|proxy-authorization|cookie|x-api-key)$|x-auth-)[a-z0-9][a-z0-9-]{0,63}$/;
/** Headers that the client's proxy or browser sets, so they hold no credential. */
const READ_ELSEWHERE =
  /^header:(?:(?:origin|expect|accept|content-type|user-agent|referer|forwarded|via|date|set-cookie|proxy-authenticate|www-authenticate|x-real-ip|x-request-id)$|access-control-|sec-|x-(?:forwarded|original|envoy)-)/;

function isCarrier(text: string): boolean {
  return ["bearer", "x-api-key", "basic"].includes(text) || (NAMED_HEADER.test(text) && !READ_ELSEWHERE.test(text));
}

const slug = z.string().regex(SLUG, NO_SLUG);
const tenantId = slug;

export const tls = z.strictObject({
  cert_file: z.string(),
  key_file: z.string(),
  client_ca_file: z.string().optional(),
  allowed_sans: z.array(z.string().min(1)).default([]),
});

const listener = {
  unix_mode: z
    .string()
    .regex(/^0?[0-7]{3}$/, 'must be an octal file mode such as "0600"')
    .default("0600")
    .transform((text) => Number.parseInt(text, 8)),
  tls: tls.optional(),
};

const permission = z
  .string()
  .refine(
    (text) => PERMISSIONS.some((one) => one === text || (text.endsWith(".*") && one.startsWith(text.slice(0, -1)))),
    `must be one of ${PERMISSIONS.join(", ")}, or a beginning of them with .*`,
  );

const scope = z
  .string()
  .regex(/^[\x21\x23-\x5b\x5d-\x7e]{1,128}$/, 'must be 1 to 128 visible characters without " and \\')
  .refine((text) => !text.startsWith("sallyport."), "must not begin with sallyport., which is for permissions");

const claim = z.string().min(1).max(256);

const types = z
  .array(z.string().regex(/^[\x21-\x7e]{1,64}$/, "must be 1 to 64 visible characters"))
  .min(1, "must have at least one entry")
  .max(8);

/** An issuer of JWTs, whoever shows them. */
const issuer = {
  name: z.string().regex(/^[a-z][a-z0-9-]{0,31}$/, "must be a lower-case letter, then up to 31 of a-z 0-9 -"),
  issuer: issuerUrl,
  jwks_uri: issuerUrl.optional(),
  ca_file: z.string().min(1).optional(),
  algorithms: z
    .array(
      z.enum(
        ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"],
        "must be RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA",
      ),
    )
    .min(1, "must have at least one entry")
    .default(["RS256"]),
  clock_skew: duration.prefault("30s"),
};

const workloadIssuer = z.strictObject({ ...issuer, types: types.default(["JWT"]) });

const oidc = z.strictObject({
  ...issuer,
  audiences: z.array(z.string().min(1).max(256)).min(1, "must have at least one entry").max(20),
  types: types.default(["at+jwt"]),
  require: z.record(claim, z.string()).default({}),
  max_age: duration.prefault("1h"),
  tenant: tenantId.optional(),
  tenant_claim: claim.optional(),
  tenants: z.record(z.string().min(1), tenantId).default({}),
  principal_claim: claim.default("sub"),
  sub_prefix: z
    .string()
    .regex(/^[A-Za-z0-9._@/-]{0,32}$/, "must be up to 32 of A-Z a-z 0-9 . _ @ / -")
    .default(""),
  groups_claim: claim.default("groups"),
  groups: z
    .array(
      z.strictObject({
        group: z.string().min(1).max(256),
        tenant: tenantId.optional(),
        permissions: z.array(permission).default([]),
        scopes: z.array(scope).max(100).default([]),
        roles: z.array(slug).max(16).default([]),
      }),
    )
    .min(1, "must have at least one entry: a session without a mapped group is refused"),
});

const profile = z.strictObject({
  prefix: z.string().regex(/^[a-z][a-z0-9_]{1,15}$/, "must be a letter, then 1 to 15 of a-z 0-9 _"),
  principals: z.array(z.enum(["user", "bot", "service", "org"])).min(1),
  max_ttl: duration,
  default_ttl: duration,
  allow_no_expiry: z.boolean(),
  scope_ceilings: z.record(z.string(), duration),
  minted_by: z.array(z.enum(["session", "admin", "creator", "token"])),
  self_rotate: z.union([z.boolean(), z.literal("renew")], "must be false, true or renew"),
  max_live_per_principal: z.number().int().min(0),
  allow_empty_name: z.boolean(),
  on_reuse: z.enum(["audit", "revoke-family"]),
  format: z.enum(["opaque", "jwt"]),
  alg: z.enum(SIGNING_ALGORITHMS),
  access_audit: z.enum(["off", "sampled", "full"]),
  access_audit_sample: z
    .number()
    .gt(0, "must be more than 0: off records nothing")
    .max(1, "must be at most 1, which is every use"),
});

const signing = z.strictObject({
  issuer: z.string().regex(/^[\x21-\x7e]{1,256}$/, "must be 1 to 256 visible characters"),
  current: z
    .union(
      [z.string(), z.partialRecord(z.enum(SIGNING_ALGORITHMS), z.string())],
      "must be an id, or an id for each alg",
    )
    .optional(),
  keys: z.record(z.string(), z.union([z.string(), z.record(z.string(), z.unknown())], "must be a JWK or PEM")),
});

export const schema = z.strictObject({
  mode: z.enum(["full", "validate"]).default("full"),
  workers: z.number().int().min(1).max(64).default(1),
  listeners: z
    .strictObject({
      data: z
        .strictObject({
          bind: bind.default("127.0.0.1:7400"),
          ...listener,
          trust_peers: z.boolean().optional(),
          http2: z.enum(["builtin", "node"]).default("builtin"),
          max_connections: z.number().int().min(16).max(65_536).default(1_024),
        })
        .prefault({}),
      admin: z
        .strictObject({
          bind: bind.default("127.0.0.1:7401"),
          ...listener,
          trusted_proxies: z.array(network).default([]),
        })
        .prefault({}),
      ops: z.strictObject({ bind: bind.default("127.0.0.1:7402"), unix_mode: listener.unix_mode }).prefault({}),
    })
    .prefault({}),
  database: z
    .strictObject({
      url: databaseUrl.optional(),
      direct_url: databaseUrl.optional(),
      allow_fsync_off: z.boolean().default(false),
    })
    .prefault({}),
  journal: z
    .strictObject({ url: databaseUrl.optional(), mode: z.enum(["async", "required"]).default("async") })
    .prefault({}),
  redis: z.strictObject({ url: z.string().optional() }).prefault({}),
  embedded: z.strictObject({ data_dir: z.string().default("./data") }).prefault({}),
  keyring: z.strictObject({ current: z.string(), keys: z.record(z.string(), z.string()) }).optional(),
  signing: signing.optional(),
  break_glass: z
    .strictObject({
      secret: z
        .string()
        .min(32, "must have at least 32 bytes")
        .regex(/^[A-Za-z0-9._~+/=-]{0,8192}$/, "must be of A-Z a-z 0-9 . _ ~ + / = - alone, as a bearer credential is")
        .optional(),
    })
    .prefault({}),
  callers: z
    .strictObject({
      mtls: z
        .array(
          z.strictObject({
            san: z.string().min(1),
            tenant: z.string(),
            permissions: z.array(permission),
            scopes: z.array(scope).max(100).default([]),
          }),
        )
        .default([]),
      oidc: z.array(oidc).max(32).default([]),
    })
    .prefault({}),
  federation: z.strictObject({ issuers: z.array(workloadIssuer).max(32).default([]) }).prefault({}),
  profiles: z.record(z.string().regex(/^[a-z][a-z0-9-]{0,31}$/), profile.partial()).default({}),
  principals: z
    .strictObject({ registered: z.array(z.enum(["user", "bot", "service", "org"])).default(["bot", "service"]) })
    .prefault({}),
  policies: z
    .record(
      z.string().regex(/^[a-z][a-z0-9-]{0,63}$/),
      z.strictObject({
        required_scopes: z.array(z.string().min(1).max(128)).max(32).default([]),
        audience: z.string().max(256).default(""),
        tenant: z
          .string()
          .refine((id) => id === "" || SLUG.test(id), NO_SLUG)
          .default(""),
        tenant_from: z
          .string()
          .refine(
            (from) => from === "" || NAMED_HEADER.test(from),
            "must be header: and a lower-case header name that carries no credential and begins with no x-auth-",
          )
          .default(""),
        carriers: z
          .array(
            z.custom<"bearer" | "x-api-key" | "basic" | `header:${string}`>(
              (one) => typeof one === "string" && isCarrier(one),
              "must be bearer, basic, x-api-key, or header: and a lower-case header name that nothing else reads or sets",
            ),
          )
          .min(1)
          .max(8)
          .default(["bearer"]),
        realm: z
          .string()
          .regex(/^[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}$/, 'must be 1 to 64 visible characters without " and \\')
          .default("sallyport"),
        outage: z.enum(["deny", "error"]).default("deny"),
        headers: z
          .partialRecord(
            z.enum([
              "x-auth-principal",
              "x-auth-tenant",
              "x-auth-token-id",
              "x-auth-tenants",
              "x-auth-scopes",
              "x-auth-profile",
            ]),
            z.union([
              z
                .string()
                .regex(
                  /^(?!(?:host|te|trailer|upgrade|connection|keep-alive|proxy-connection|transfer-encoding|content-length)$)[a-z0-9][a-z0-9_-]{0,63}$/,
                  "must be a lower-case header name that neither routes nor frames the request",
                ),
              z.literal(false),
            ]),
          )
          .default({}),
        client_address: z
          .string()
          .regex(/^(peer|x-envoy-external-address|xff:[1-9])$/, "must be peer, x-envoy-external-address or xff:N")
          .default("peer"),
        keep_credential: z.boolean().default(false),
        allow_cors_preflight: z.boolean().default(false),
      }),
    )
    .default({}),
  cache: z
    .strictObject({
      l1: z
        .strictObject({
          entries: z.number().int().min(0).max(10_000_000).default(50_000),
          bytes: size.default(64 * 1024 ** 2),
        })
        .prefault({}),
      ttl: duration.prefault("5m"),
      negative_ttl: duration.prefault("5s"),
    })
    .prefault({}),
  revocation: z.strictObject({ lease: duration.prefault("1500ms"), poll: duration.prefault("400ms") }).prefault({}),
  feed: z
    .strictObject({
      lease: duration.optional(),
      max_clients: z.number().int().min(0).max(10_000).optional(),
    })
    .prefault({}),
  limits: z
    .strictObject({
      mint_per_address_per_hour: z.number().int().min(0).default(10),
      mint_per_principal_per_day: z.number().int().min(0).default(100),
      rotate_per_principal_per_day: z.number().int().min(0).default(100),
      ipv6_prefix_length: z.number().int().min(1).max(128).default(64),
    })
    .prefault({}),
  access_audit: z.strictObject({ retention: duration.prefault("30d") }).prefault({}),
  canary: z
    .strictObject({
      every: duration.optional(),
      peers: z
        .array(
          z
            .string()
            .regex(/^(https?:\/\/[^/\s@?#]+|unix:\/.+)$/, "must be http://host:port, https://host:port or unix:/path"),
        )
        .max(100)
        .default([]),
      ca_file: z.string().optional(),
      cert_file: z.string().optional(),
      key_file: z.string().optional(),
    })
    .prefault({}),
  console: z
    .strictObject({
      enabled: z.boolean().default(true),
      public_url: z
        .string()
        .regex(/^https?:\/\/[^/\s@?#]+$/, "must be https://host or https://host:port, without a path")
        .optional(),
      idle_timeout: duration.prefault("15m"),
      token_sign_in: z.boolean().default(true),
      oidc: z
        .array(
          z.strictObject({
            caller: z.string().min(1),
            client_id: z.string().regex(/^[\x21-\x7e]{1,256}$/, "must be 1 to 256 visible characters"),
            client_secret_file: z.string().min(1),
            label: z.string().min(1).max(64).optional(),
            scopes: z
              .array(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]{1,128}$/, "must be 1 to 128 visible characters"))
              .max(20)
              .default(["openid"]),
          }),
        )
        .max(8)
        .default([]),
      session: z.strictObject({ max_age: duration.prefault("12h"), idle: duration.prefault("1h") }).prefault({}),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z.enum(["trace", "debug", "info", "warn", "error", "fatal"]).default("info"),
      format: z.enum(["auto", "json", "pretty"]).default("auto"),
    })
    .prefault({}),
});

export type Config = z.output<typeof schema> & {
  /** The file of the configuration and the files that it names. A change of one of them triggers a reload. */
  readonly files: readonly string[];
  /** Settings that work and should be changed nevertheless. */
  readonly warnings: readonly string[];
};

/** Keys whose value may stand in a file that the key `<name>_file` names. */
export const FROM_FILE = ["database.url", "database.direct_url", "journal.url", "redis.url", "break_glass.secret"];

/** Keys that may be missing. A blank value counts as missing. */
export const OPTIONAL = [
  ...FROM_FILE,
  "console.public_url",
  ...["data", "admin"].flatMap((name) =>
    ["cert_file", "key_file", "client_ca_file"].map((key) => `listeners.${name}.tls.${key}`),
  ),
  ...["ca_file", "cert_file", "key_file"].map((key) => `canary.${key}`),
];
