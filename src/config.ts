import { isIP } from "node:net";
import { z } from "zod";
import { isBlank, openToOthers, overlay, readTree, readValues, removeBlank, removePath } from "./config-sources.ts";

/** A configuration that can not be used: every problem at once, each naming its key. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join("\n"));
    this.problems = problems;
  }
}

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** A duration in milliseconds, written `"1500ms"`, `"30s"`, `"5m"`, `"12h"`, `"90d"`. */
const duration = z
  .string()
  .regex(/^\d{1,12}(ms|s|m|h|d)$/, 'must be a duration such as "1500ms", "30s", "5m", "12h", "90d"')
  .transform((text) => {
    const [, number, unit] = /^(\d+)(\D+)$/.exec(text) as unknown as [string, string, keyof typeof UNITS];
    return Number(number) * UNITS[unit];
  });

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

const bind = z
  .string()
  .regex(/^(unix:.+|(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:]+\]|localhost):\d{1,5})$/, "must be IP:port or unix:/path");

const network = z.string().refine((text) => {
  const [address = "", bits, more] = text.split("/");
  const longest = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1;
  return (
    more === undefined && longest > 0 && (bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= longest))
  );
}, "must be an IP address or a network such as 10.0.0.0/8");

const databaseUrl = z
  .string()
  .regex(/^postgres(ql)?:\/\//, "must be postgres://user:password@host:port/database")
  .regex(/^[^#]*$/, "has a # in it: write it %23 (in a password, too)");

const tls = z.strictObject({
  cert_file: z.string(),
  key_file: z.string(),
  client_ca_file: z.string().optional(),
  allowed_sans: z.array(z.string().min(1)).default([]),
});

const door = {
  unix_mode: z
    .string()
    .regex(/^0?[0-7]{3}$/, 'must be an octal file mode such as "0600"')
    .default("0600")
    .transform((text) => Number.parseInt(text, 8)),
  tls: tls.optional(),
};

/** As `services/caller.ts` asks for them. */
const PERMISSIONS = ["operator", "admin", "tokens.create", "tokens.read", "tokens.revoke", "principals.write"]
  .concat("audit.read", "validate", "reasons")
  .map((name) => `sallyport.${name}`);

const permission = z
  .string()
  .refine(
    (text) => PERMISSIONS.some((one) => one === text || (text.endsWith(".*") && one.startsWith(text.slice(0, -1)))),
    `must be one of ${PERMISSIONS.join(", ")}, or a beginning of them with .*`,
  );

const scope = z
  .string()
  .regex(/^[\x21\x23-\x5b\x5d-\x7e]{1,128}$/, 'must be 1 to 128 visible characters without " and \\')
  .refine((text) => !text.startsWith("sallyport."), "what begins with sallyport. is a permission");

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
  format: z.literal("opaque"),
});

const schema = z.strictObject({
  mode: z.enum(["full", "validate"]).default("full"),
  doors: z
    .strictObject({
      data: z
        .strictObject({
          bind: bind.default("127.0.0.1:7400"),
          ...door,
          trust_peers: z.boolean().optional(),
          http2: z.enum(["own", "node"]).default("own"),
          max_connections: z.number().int().min(16).max(65_536).default(1_024),
        })
        .prefault({}),
      admin: z
        .strictObject({
          bind: bind.default("127.0.0.1:7401"),
          ...door,
          trusted_proxies: z.array(network).default([]),
        })
        .prefault({}),
      ops: z.strictObject({ bind: bind.default("127.0.0.1:7402"), unix_mode: door.unix_mode }).prefault({}),
    })
    .prefault({}),
  database: z
    .strictObject({
      url: databaseUrl.optional(),
      direct_url: databaseUrl.optional(),
      allow_fsync_off: z.boolean().default(false),
    })
    .prefault({}),
  redis: z.strictObject({ url: z.string().optional() }).prefault({}),
  embedded: z.strictObject({ data_dir: z.string().default("./data") }).prefault({}),
  keyring: z.strictObject({ current: z.string(), keys: z.record(z.string(), z.string()) }).optional(),
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
    })
    .prefault({}),
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
        carriers: z
          .array(z.enum(["bearer", "x-api-key", "basic"]))
          .min(1)
          .default(["bearer"]),
        realm: z
          .string()
          .regex(/^[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}$/, 'must be 1 to 64 visible characters without " and \\')
          .default("sallyport"),
        outage: z.enum(["deny", "error"]).default("deny"),
        headers: z
          .partialRecord(
            z.enum(["x-auth-principal", "x-auth-tenant", "x-auth-token-id", "x-auth-scopes", "x-auth-profile"]),
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
          entries: z.number().int().min(0).max(10_000_000).default(100_000),
          bytes: size.default(64 * 1024 ** 2),
        })
        .prefault({}),
      ttl: duration.prefault("5m"),
      negative_ttl: duration.prefault("5s"),
    })
    .prefault({}),
  revocation: z.strictObject({ lease: duration.prefault("1500ms"), poll: duration.prefault("400ms") }).prefault({}),
  limits: z
    .strictObject({
      mint_per_address_per_hour: z.number().int().min(0).default(10),
      mint_per_principal_per_day: z.number().int().min(0).default(100),
      rotate_per_principal_per_day: z.number().int().min(0).default(100),
      ipv6_prefix_length: z.number().int().min(1).max(128).default(64),
    })
    .prefault({}),
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
  log: z
    .strictObject({ level: z.enum(["trace", "debug", "info", "warn", "error", "fatal"]).default("info") })
    .prefault({}),
});

export type Config = z.output<typeof schema> & {
  /** Files that it was read from, and those that it names: a change of one of them is a reason to read it again. */
  readonly files: readonly string[];
  /** What works and should be changed nevertheless. */
  readonly warnings: readonly string[];
};

/** Keys whose value a key `<name>_file` may hold instead. */
const FROM_FILE = ["database.url", "database.direct_url", "redis.url", "break_glass.secret"];

/** Keys that need not have a value, and have none where they are blank. */
const OPTIONAL = [
  ...FROM_FILE,
  ...["data", "admin"].flatMap((name) =>
    ["cert_file", "key_file", "client_ca_file"].map((key) => `doors.${name}.tls.${key}`),
  ),
  ...["ca_file", "cert_file", "key_file"].map((key) => `canary.${key}`),
];

/**
 * One configuration from a YAML file and the environment laid over it. Keys are YAML paths; in the environment
 * `SALLYPORT_` and the path in upper case with `__` between levels; `DATABASE_URL` and `REDIS_URL` as usual. A key
 * `x_file` reads the value of `x` from a file. Pure but for the files it is pointed to.
 */
export function loadConfig(file: string | undefined, env: Readonly<Record<string, string | undefined>>): Config {
  const problems: string[] = [];
  const tree = file === undefined ? {} : readTree(file, problems);
  const blankUrl = isBlankUrl(tree, env);
  overlay(tree, env, schema, problems);
  const files = file === undefined ? [] : [file];
  const secrets = secretFiles(tree);
  readValues(tree, FROM_FILE, problems, files);
  removeBlank(tree, OPTIONAL);
  const parsed = schema.safeParse(tree);
  const held = (config: z.output<typeof schema>) => problems.push(...crossChecks(config, blankUrl));
  if (parsed.success) held(parsed.data);
  else {
    problems.push(...parsed.error.issues.map(problemOf));
    // What is left without the faulty keys can still be held against itself: every problem at once.
    for (const { path } of parsed.error.issues) removePath(tree, path);
    const rest = schema.safeParse(tree);
    if (rest.success) held(rest.data);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  const config = parsed.data!;
  for (const name of ["data", "admin"] as const) {
    const { tls } = config.doors[name];
    if (tls === undefined) continue;
    files.push(tls.cert_file, tls.key_file, ...(tls.client_ca_file ? [tls.client_ca_file] : []));
    secrets.push([`doors.${name}.tls.key_file`, tls.key_file]);
  }
  if (config.canary.key_file !== undefined) secrets.push(["canary.key_file", config.canary.key_file]);
  return deepFreeze({ ...config, files, warnings: openToOthers(secrets) });
}

/** The files that hold secrets, by the keys that name them. */
function secretFiles(tree: Readonly<Record<string, unknown>>): [key: string, file: string][] {
  return [...FROM_FILE.map((key) => `${key}_file`), "keyring_file"].flatMap((key) => {
    const value = key.split(".").reduce<unknown>((at, name) => (at as Record<string, unknown> | null)?.[name], tree);
    return typeof value === "string" && !isBlank(value) ? [[key, value] as [string, string]] : [];
  });
}

/** Whether somebody meant to name a database, and named none: a variable that did not come through, an empty value. */
function isBlankUrl(tree: Readonly<Record<string, unknown>>, env: Readonly<Record<string, string | undefined>>) {
  const inFile = (tree["database"] as Record<string, unknown> | null | undefined)?.["url"];
  return ["DATABASE_URL", "SALLYPORT_DATABASE__URL"].some((name) => env[name]?.trim() === "") || inFile === "";
}

/** The configuration as it is in force, with every secret replaced by `[secret]`. */
export function redacted(config: Config): unknown {
  const copy = structuredClone(config) as Config;
  if (copy.keyring !== undefined) for (const kid of Object.keys(copy.keyring.keys)) copy.keyring.keys[kid] = "[secret]";
  if (copy.break_glass.secret !== undefined) copy.break_glass.secret = "[secret]";
  for (const section of [copy.database as Record<string, unknown>, copy.redis as Record<string, unknown>]) {
    for (const key of ["url", "direct_url"]) {
      const url = section[key];
      if (typeof url === "string") section[key] = withoutPassword(url);
    }
  }
  return written(copy);
}

/** A connection URL without its password: before the last @, which a password may hold too, or in its query. */
function withoutPassword(url: string): string {
  const user = url.indexOf("//") + 2;
  const colon = url.indexOf(":", user);
  const host = url.lastIndexOf("@");
  const held = user > 1 && colon >= 0 && colon < host;
  const shown = held ? `${url.slice(0, colon + 1)}[secret]${url.slice(host)}` : url;
  return shown.replace(/([?&][^=&]{0,64}password=)[^&]*/gi, "$1[secret]");
}

const DURATIONS = new Set(["ttl", "negative_ttl", "lease", "poll", "every", "max_ttl", "default_ttl"]);

/** Values as one would write them: durations with a unit, file modes in octal. */
function written(value: unknown, key = "", parent = ""): unknown {
  if (typeof value === "number") {
    if (key === "unix_mode") return `0${value.toString(8)}`;
    return DURATIONS.has(key) || parent === "scope_ceilings" ? durationText(value) : value;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, written(inner, name, key)]));
}

function durationText(ms: number): string {
  const units = Object.entries(UNITS).reverse();
  const [unit, length] = units.find(([, length]) => ms % length === 0) ?? ["ms", 1];
  return `${ms / length}${unit}`;
}

/** Names the key and the bound; never a value. */
function problemOf(issue: z.core.$ZodIssue): string {
  const path = issue.path.join(".");
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => `${path === "" ? key : `${path}.${key}`}: no such setting`).join("\n");
  }
  return `${path}: ${issue.message}`;
}

function crossChecks(config: z.output<typeof schema>, blankUrl: boolean): string[] {
  const problems: string[] = [];
  const { lease, poll } = config.revocation;
  if (poll * 1.2 + 500 >= lease)
    problems.push("revocation.poll: poll · 1.2 + 500ms must be less than revocation.lease");
  // The log remembers changes for ten minutes: nothing may be cached for longer.
  if (config.cache.negative_ttl < 1 || config.cache.negative_ttl > config.cache.ttl) {
    problems.push("cache.negative_ttl: must be 1ms to cache.ttl");
  }
  if (config.cache.ttl < 1000 || config.cache.ttl > 540_000) problems.push("cache.ttl: must be 1s to 9m");
  if (config.keyring === undefined && config.database.url !== undefined) {
    problems.push("keyring: is required with database.url (or keyring_file); the embedded database makes its own");
  }
  const { url, direct_url: directUrl } = config.database;
  if (url === undefined && blankUrl && config.keyring !== undefined) {
    problems.push("database.url: is blank (DATABASE_URL, too); with a keyring it must name a database, or be left out");
  }
  if (url === undefined && directUrl !== undefined) problems.push("database.direct_url: needs database.url");
  if (config.canary.every !== undefined && (config.mode !== "full" || config.canary.every < 1000)) {
    problems.push("canary.every: must be at least 1s, in mode full");
  }
  if (config.mode === "validate" && config.database.url === undefined) {
    problems.push("database.url: is required in mode validate");
  }
  const data = config.doors.data;
  if (data.trust_peers === true && (data.tls?.allowed_sans.length ?? 0) > 0) {
    problems.push("doors.data.trust_peers: with allowed_sans peers are known by their certificates; leave it out");
  }
  if (!isLocal(data.bind) && data.trust_peers === true) {
    problems.push("doors.data.trust_peers: peers can be trusted on loopback and unix sockets only");
  }
  for (const name of ["data", "admin"] as const) {
    const section = config.doors[name].tls;
    if (section !== undefined && section.allowed_sans.length > 0 && section.client_ca_file === undefined) {
      problems.push(`doors.${name}.tls.client_ca_file: is required with allowed_sans`);
    }
  }
  if ((config.canary.cert_file === undefined) !== (config.canary.key_file === undefined)) {
    problems.push("canary.cert_file: needs canary.key_file, and the other way round");
  }
  const admitted = config.doors.admin.tls?.allowed_sans ?? [];
  for (const [i, { san }] of config.callers.mtls.entries()) {
    if (admitted.length > 0 && !admitted.includes(san)) {
      problems.push(`callers.mtls.${i}.san: is not in doors.admin.tls.allowed_sans, so it can not come in`);
    }
  }
  if (config.callers.mtls.length > 0 && config.doors.admin.tls?.client_ca_file === undefined) {
    problems.push("callers.mtls: needs doors.admin.tls.client_ca_file");
  }
  problems.push(...samePlaces(config));
  return problems;
}

/** Two listeners can not share an address. Port 0 takes a free one each time. */
function samePlaces({ mode, doors }: z.output<typeof schema>): string[] {
  const names = mode === "full" ? (["data", "admin", "ops"] as const) : (["data", "ops"] as const);
  return names.flatMap((name, i) =>
    names
      .slice(i + 1)
      .filter((other) => overlaps(doors[name].bind, doors[other].bind))
      .map((other) => `doors.${other}.bind: is the address of doors.${name}.bind; each listener needs its own`),
  );
}

function overlaps(one: string, other: string): boolean {
  if (one.startsWith("unix:") || other.startsWith("unix:")) return one === other;
  const [a, b] = [one, other].map((bind) => {
    const [, host = "", port = ""] = /^(.*):(\d+)$/.exec(bind) ?? [];
    return { host: host === "localhost" ? "127.0.0.1" : host, port: Number(port) };
  }) as [{ host: string; port: number }, { host: string; port: number }];
  const everywhere = (host: string) => host === "0.0.0.0" || host === "[::]";
  return a.port === b.port && a.port !== 0 && (a.host === b.host || everywhere(a.host) || everywhere(b.host));
}

/**
 * Whether whoever reaches the data listener is believed without a credential: on this machine alone, and only where nobody
 * said which certificates count.
 */
export function trustsPeers({ bind, trust_peers: trust, tls }: Config["doors"]["data"]): boolean {
  return trust ?? (isLocal(bind) && (tls?.allowed_sans.length ?? 0) === 0);
}

/** Whether a bind can be reached from this machine only. */
export function isLocal(bindTo: string): boolean {
  return /^(unix:|127\.|localhost:|\[::1\]:)/.test(bindTo);
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null)
    for (const inner of Object.values(Object.freeze(value))) deepFreeze(inner);
  return value;
}
