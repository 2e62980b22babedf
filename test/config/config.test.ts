import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { isLocal } from "../../src/config/checks.ts";
import { issuersOf, workloadIssuersOf } from "../../src/config/issuers.ts";
import { loadConfig } from "../../src/config/load.ts";
import { redacted } from "../../src/config/print.ts";
import { StartError } from "../../src/domain/start-error.ts";
import { ALL_METHODS } from "../../src/rpc/methods.ts";
import { folder } from "../support/program.ts";
import { signingSettings } from "../support/signing.ts";

const place = folder();
afterAll(() => place.remove());
let made = 0;
const file = (text: string) => {
  const path = join(place.path, `f${++made}`);
  writeFileSync(path, text);
  return path;
};
const yaml = (text: string, env: Record<string, string> = {}) => loadConfig(file(text), env);
const problems = (text: string, env: Record<string, string> = {}): readonly string[] => {
  try {
    yaml(text, env);
    return [];
  } catch (error) {
    expect(error).toBeInstanceOf(StartError);
    return (error as StartError).problems;
  }
};
const KEYRING = { keyring: { current: "1", keys: { "1": Buffer.alloc(32, 7).toString("base64") } } };

describe("a configuration without any setting", () => {
  test("the defaults are those of the contract", () => {
    expect(loadConfig(undefined, {})).toMatchObject({
      mode: "full",
      listeners: {
        data: { bind: "127.0.0.1:7400", http2: "builtin", max_connections: 1024, unix_mode: 0o600 },
        admin: { bind: "127.0.0.1:7401", trusted_proxies: [] },
        ops: { bind: "127.0.0.1:7402" },
      },
      embedded: { data_dir: "./data" },
      principals: { registered: ["bot", "service"] },
      cache: { l1: { entries: 50_000, bytes: 64 * 1024 ** 2 }, ttl: 300_000, negative_ttl: 5000 },
      revocation: { lease: 1500, poll: 400 },
      limits: {
        mint_per_address_per_hour: 10,
        mint_per_principal_per_day: 100,
        rotate_per_principal_per_day: 100,
        ipv6_prefix_length: 64,
      },
      log: { level: "info" },
      break_glass: {},
      callers: { mtls: [], oidc: [] },
    });
  });

  test("the result is frozen", () => {
    const config = loadConfig(undefined, {}) as { log: { level: string } };
    expect(() => {
      config.log.level = "trace";
    }).toThrow(TypeError);
  });
});

describe("the source of a value", () => {
  test("the environment is laid over the file, level by level; DATABASE_URL and REDIS_URL as usual", () => {
    const config = yaml(
      "log: { level: warn }\nlimits: { mint_per_address_per_hour: 1, mint_per_principal_per_day: 2 }",
      {
        SALLYPORT_LOG__LEVEL: "debug",
        SALLYPORT_LIMITS__MINT_PER_ADDRESS_PER_HOUR: "0",
        SALLYPORT_LISTENERS__DATA__TRUST_PEERS: "false",
        SALLYPORT_PRINCIPALS__REGISTERED: "[bot]",
        SALLYPORT_KEYRING__CURRENT: "b",
        SALLYPORT_KEYRING__KEYS: JSON.stringify({ b: KEYRING.keyring.keys["1"] }),
        DATABASE_URL: "postgres://h/d",
        REDIS_URL: "redis://h",
        UNRELATED: "x",
        SALLYPORT_TOKEN: "of the command line",
      },
    );
    expect(config).toMatchObject({
      log: { level: "debug" },
      limits: { mint_per_address_per_hour: 0, mint_per_principal_per_day: 2 },
      listeners: { data: { trust_peers: false } },
      principals: { registered: ["bot"] },
      database: { url: "postgres://h/d" },
      redis: { url: "redis://h" },
    });
  });

  test("a key x_file reads the value of x from a file, without the line's end, and the file is known", () => {
    const secret = file(`${"s".repeat(40)}\n`);
    const keyring = file(JSON.stringify(KEYRING.keyring));
    const url = file("postgres://h/d\n");
    const path = file(
      JSON.stringify({ break_glass: { secret_file: secret }, keyring_file: keyring, database: { url_file: url } }),
    );
    const config = loadConfig(path, {});
    expect(config).toMatchObject({
      break_glass: { secret: "s".repeat(40) },
      database: { url: "postgres://h/d" },
      ...KEYRING,
    });
    expect(config.files).toEqual(expect.arrayContaining([path, secret, keyring, url]));
    expect(problems("break_glass: { secret_file: /no/such/file }")).toEqual([
      expect.stringContaining("break_glass.secret_file"),
    ]);
    expect(problems("keyring_file: /no/such/file")).toEqual([expect.stringContaining("keyring_file")]);
  });

  test("a variable can name a file in the same way", () => {
    const keyring = file(JSON.stringify(KEYRING.keyring));
    expect(loadConfig(undefined, { SALLYPORT_KEYRING_FILE: keyring })).toMatchObject(KEYRING);
  });
});

describe("a value out of its bounds", () => {
  test.each<[string, string, unknown]>([
    ["cache: { negative_ttl: 250ms }", "cache.negative_ttl", 250],
    ["cache: { ttl: 90s }", "cache.ttl", 90_000],
    ["cache: { ttl: 2m }", "cache.ttl", 120_000],
    ["profiles: { pat: { max_ttl: 1h } }", "profiles.pat.max_ttl", 3_600_000],
    ["profiles: { pat: { max_ttl: 3650d } }", "profiles.pat.max_ttl", 315_360_000_000],
    ["cache: { l1: { bytes: 16 MiB } }", "cache.l1.bytes", 16 * 1024 ** 2],
    ["cache: { l1: { bytes: 1024 } }", "cache.l1.bytes", 1024],
    ['listeners: { data: { bind: "unix:/run/s", unix_mode: "0660" } }', "listeners.data.unix_mode", 0o660],
    ['listeners: { data: { bind: "[::1]:7400" } }', "listeners.data.bind", "[::1]:7400"],
  ])("%s is %s = %s", (text, path, expected) => {
    const value = path.split(".").reduce((at, key) => (at as Record<string, unknown>)[key], yaml(text) as unknown);
    expect(value).toBe(expected);
  });

  test.each<[string, string]>([
    ["cache: { ttl: 5 }", "cache.ttl"],
    ["cache: { ttl: 5 minutes }", "cache.ttl"],
    ["cache: { ttl: -5s }", "cache.ttl"],
    ["cache: { l1: { bytes: much } }", "cache.l1.bytes"],
    ["cache: { l1: { entries: 1.5 } }", "cache.l1.entries"],
    ["log: { level: loud }", "log.level"],
    ["mode: half", "mode"],
    ["workers: 0", "workers"],
    ["workers: 65", "workers"],
    [
      "{ workers: 2, mode: validate, database: { url: postgres://h/d }, keyring: { current: a, keys: { a: b } } }",
      "workers",
    ],
    ["listeners: { data: { bind: 7400 } }", "listeners.data.bind"],
    ["listeners: { data: { bind: example.com:80 } }", "listeners.data.bind"],
    ['listeners: { data: { unix_mode: "999" } }', "listeners.data.unix_mode"],
    ["profiles: { Pat: {} }", "profiles.Pat"],
    ["profiles: { pat: { prefix: 1x } }", "profiles.pat.prefix"],
    ["profiles: { pat: { principals: [] } }", "profiles.pat.principals"],
    ["profiles: { pat: { minted_by: [anybody] } }", "profiles.pat.minted_by.0"],
    ["profiles: { pat: { self_rotate: often } }", "profiles.pat.self_rotate"],
    ["limits: { ipv6_prefix_length: 0 }", "limits.ipv6_prefix_length"],
    ["limits: { ipv6_prefix_length: 129 }", "limits.ipv6_prefix_length"],
    ["profiles: { pat: { administrative: true } }", "profiles.pat.administrative"],
    ["principals: { registered: [robot] }", "principals.registered.0"],
    ["break_glass: { secret: short }", "break_glass.secret"],
    ["limits: { mint_per_address_per_hour: -1 }", "limits.mint_per_address_per_hour"],
    ["policies: { p: { realm: 'a\"b' } }", "policies.p.realm"],
    ["policies: { p: { tenant: Acme } }", "policies.p.tenant"],
    ["policies: { p: { carriers: [query] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: [bearer, 3] } }", "policies.p.carriers.1"],
    ["policies: { p: { carriers: ['header:'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header:Private-Token'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header::path'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header:authorization'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header:x-api-key'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header:connection'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header:host'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header:x-auth-principal'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header:x-forwarded-for'] } }", "policies.p.carriers.0"],
    ["policies: { p: { carriers: ['header:x_token'] } }", "policies.p.carriers.0"],
    [`policies: { p: { carriers: ['header:${"a".repeat(65)}'] } }`, "policies.p.carriers.0"],
    ["policies: { p: { carriers: [bearer, 'header:x-org'], tenant_from: 'header:x-org' } }", "policies.p.carriers.1"],
    ["policies: { p: { carriers: ['header:x-me'], headers: { x-auth-principal: x-me } } }", "policies.p.carriers.0"],
    ["policies: { p: { tenant_from: x-org } }", "policies.p.tenant_from"],
    ["policies: { p: { tenant_from: 'header:authorization' } }", "policies.p.tenant_from"],
    ["policies: { p: { tenant_from: 'header:x-auth-tenant' } }", "policies.p.tenant_from"],
    ["policies: { p: { tenant: acme, tenant_from: 'header:x-org' } }", "policies.p.tenant_from"],
    ["policies: { p: { headers: { x-auth-tenant: content-length } } }", "policies.p.headers.x-auth-tenant"],
    ["policies: { p: { headers: { x-auth-tenant: transfer-encoding } } }", "policies.p.headers.x-auth-tenant"],
    ["nonsense: 1", "nonsense"],
    ["listeners: { data: { tls: { cert_file: a } } }", "listeners.data.tls.key_file"],
  ])("%s is refused by its key", (text, key) => {
    expect(problems(text)).toEqual([expect.stringMatching(new RegExp(`^${key.replaceAll(".", "\\.")}: `))]);
  });

  test("a variable that is no setting is reported", () => {
    expect(problems("", { SALLYPORT_LOGLEVEL: "x" })).toEqual([expect.stringContaining("SALLYPORT_LOGLEVEL")]);
    expect(problems("", { SALLYPORT_LOG__LEVLE: "x" })).toEqual([expect.stringContaining("log.levle")]);
  });

  test("no problem repeats a value", () => {
    const mark = "zq-marker";
    const text = `log: { level: ${mark} }\ncache: { ttl: ${mark} }\nbreak_glass: { secret: ${mark} }\nmode: ${mark}\nlisteners: { data: { bind: ${mark} } }`;
    const all = problems(text, { DATABASE_URL: mark });
    expect(all.length).toBeGreaterThanOrEqual(5);
    expect(all.join("\n")).not.toContain(mark);
  });
});

describe("the schema's type decides how a variable is read", () => {
  test("digits are text if the key is text; maps and lists are written in YAML flow form, at any level", () => {
    const config = yaml("limits: { mint_per_address_per_hour: 3 }", {
      SALLYPORT_KEYRING__CURRENT: "1",
      SALLYPORT_KEYRING__KEYS: `{ "1": ${KEYRING.keyring.keys["1"]} }`,
      SALLYPORT_LISTENERS__DATA__UNIX_MODE: "0660",
      SALLYPORT_LISTENERS__DATA__MAX_CONNECTIONS: "32",
      SALLYPORT_EMBEDDED__DATA_DIR: "[x]",
      SALLYPORT_CACHE__L1__BYTES: "1048576",
      SALLYPORT_CALLERS__MTLS: "[]",
      SALLYPORT_PROFILES: "{ my-kind: { max_ttl: 30d }, pat: { on_reuse: revoke-family } }",
      SALLYPORT_PROFILES__PAT__SELF_ROTATE: "true",
      SALLYPORT_POLICIES: "{ api: { headers: { x-auth-scopes: false } } }",
      SALLYPORT_POLICIES__API__REALM: "true",
    });
    expect(config).toMatchObject({
      ...KEYRING,
      listeners: { data: { unix_mode: 0o660, max_connections: 32 } },
      embedded: { data_dir: "[x]" },
      cache: { l1: { bytes: 1048576 } },
      profiles: { "my-kind": { max_ttl: 30 * 86_400_000 }, pat: { on_reuse: "revoke-family", self_rotate: true } },
      policies: { api: { realm: "true", headers: { "x-auth-scopes": false } } },
      limits: { mint_per_address_per_hour: 3 },
    });
  });

  test.each([
    ["SALLYPORT_LISTENERS__DATA__MAX_CONNECTIONS", "many", "listeners.data.max_connections: "],
    ["SALLYPORT_LISTENERS__DATA__TRUST_PEERS", "yes", "listeners.data.trust_peers: "],
    ["SALLYPORT_PROFILES", "{ pat: [", "SALLYPORT_PROFILES: line 1, column "],
    ["SALLYPORT_PROFILES", "pat", "profiles: "],
  ])("%s=%s is reported by its name", (name, value, text) => {
    expect(problems("", { [name]: value })).toEqual([expect.stringContaining(text)]);
  });

  const ofKubernetes = {
    SALLYPORT_SERVICE_HOST: "10.96.0.1",
    SALLYPORT_SERVICE_PORT: "7400",
    SALLYPORT_SERVICE_PORT_GRPC: "7400",
    SALLYPORT_PORT: "tcp://10.96.0.1:7400",
    SALLYPORT_PORT_7400_TCP: "tcp://10.96.0.1:7400",
    SALLYPORT_PORT_7400_TCP_PROTO: "tcp",
    SALLYPORT_PORT_7400_TCP_PORT: "7400",
    SALLYPORT_PORT_7400_TCP_ADDR: "10.96.0.1",
    SALLYPORT_ADMIN_SERVICE_HOST: "fd00::1",
    SALLYPORT_ADMIN_PORT: "tcp://[fd00::1]:7401",
  };

  test("the variables that Kubernetes sets for a service named sallyport are no settings, and no errors", () => {
    expect(problems("", ofKubernetes)).toEqual([]);
  });

  test.each([
    ["SALLYPORT_PORT", "7400"],
    ["SALLYPORT_DATA_PORT", "7400"],
    ["SALLYPORT_SERVICE_HOST", "everywhere"],
    ["SALLYPORT_PORT_7400_TCP_ADRR", "10.96.0.1"],
    ["SALLYPORT_SERVICE", "x"],
  ])("%s=%s is still reported", (name, value) => {
    expect(problems("", { ...ofKubernetes, [name]: value })).toEqual([expect.stringContaining(`${name}: `)]);
  });

  test("the variables of the client are no settings", () => {
    const client = {
      SALLYPORT_ADDRESS: "a",
      SALLYPORT_CA_FILE: "b",
      SALLYPORT_CERT_FILE: "c",
      SALLYPORT_KEY_FILE: "d",
    };
    expect(problems("", client)).toEqual([]);
  });
});

describe("a blank value", () => {
  test("counts as unset: in the environment, in the file, as the name of a file", () => {
    const config = yaml(
      "database: { url: postgres://h/d, direct_url: '', url_file: }\nredis: { url: ' ' }\nbreak_glass: { secret_file: '' }",
      {
        SALLYPORT_DATABASE__DIRECT_URL: "",
        SALLYPORT_REDIS__URL_FILE: " ",
        SALLYPORT_LOG__LEVEL: "",
        SALLYPORT_KEYRING: JSON.stringify(KEYRING.keyring),
        REDIS_URL: "",
      },
    );
    expect(config).toMatchObject({
      database: { url: "postgres://h/d" },
      redis: {},
      break_glass: {},
      log: { level: "info" },
    });
    expect(config.database.direct_url).toBeUndefined();
    expect(config.redis.url).toBeUndefined();
  });

  test.each([
    "database.url_file",
    "database.direct_url_file",
    "journal.url_file",
    "redis.url_file",
    "break_glass.secret_file",
    "keyring_file",
  ])("a file for %s that is blank is an error, not the absence of a secret", (key) => {
    const [section, name] = key.split(".");
    const blank = JSON.stringify(file(" \n"));
    const text = name === undefined ? `${section}: ${blank}` : `${section}: { ${name}: ${blank} }`;
    expect(problems(text)).toContain(`${key}: the file is blank`);
  });

  test("an empty database URL beside a keyring is refused and does not start an embedded database", () => {
    const keyring = JSON.stringify(KEYRING);
    for (const env of [{ DATABASE_URL: "" }, { DATABASE_URL: " " }, { SALLYPORT_DATABASE__URL: "" }] as Record<
      string,
      string
    >[])
      expect(problems(keyring, env)).toEqual([expect.stringMatching(/^database\.url: is blank/)]);
    expect(problems(JSON.stringify({ ...KEYRING, database: { url: "" } }))).toHaveLength(1);
    expect(problems(keyring)).toEqual([]);
    expect(problems("", { DATABASE_URL: "" })).toEqual([]);
    expect(problems(keyring, { DATABASE_URL: "", SALLYPORT_DATABASE__URL: "postgres://h/d" })).toEqual([]);
  });
});

describe("database URLs", () => {
  test.each(["nonsense", "mysql://h/d", "http://h", "postgres:h", "postgres:/h"])("%s is refused", (url) => {
    expect(problems(JSON.stringify(KEYRING), { DATABASE_URL: url })).toEqual([
      expect.stringMatching(/^database\.url: must be postgres:\/\//),
    ]);
  });

  test("a raw # is reported, without the URL", () => {
    const found = problems(JSON.stringify(KEYRING), { DATABASE_URL: "postgres://u:hun#ter2@h/d" });
    expect(found).toEqual([expect.stringContaining("write it %23")]);
    expect(found.join()).not.toContain("hun");
  });

  test("a direct URL without a database URL is refused", () => {
    expect(problems("database: { direct_url: postgres://h/d }")).toEqual(["database.direct_url: needs database.url"]);
    expect(problems("journal: { url: postgres://h/d }")).toEqual([
      expect.stringMatching(/^journal.url: needs database/),
    ]);
    expect(problems("journal: { mode: required }")).toEqual(["journal.mode: required needs journal.url"]);
  });
});

describe("a file that is not YAML", () => {
  test.each([
    ["a: [", /line \d+, column \d+: cannot be parsed as YAML/],
    ["log:\n  level: hunter2\n level: hunter2\n", /line 3, column \d+: cannot be parsed as YAML/],
    ["log: { level: info }\nlog: { level: hunter2 }", /line 2, column 1: cannot be parsed as YAML \(duplicate key\)/],
  ])("%j is reported with line and column", (text, expected) => {
    const found = problems(text);
    expect(found).toEqual([expect.stringMatching(expected)]);
    expect(found.join()).not.toContain("hunter2");
    const keyring = problems("", { SALLYPORT_KEYRING_FILE: file(text) });
    expect(keyring).toContainEqual(expect.stringMatching(expected));
    expect(keyring[0]).toMatch(/^keyring_file: line/);
  });
});

test.each([
  ["data and admin", "listeners: { data: { bind: '127.0.0.1:7401' } }", "listeners.admin.bind"],
  ["one for every address", "listeners: { ops: { bind: '0.0.0.0:7400' } }", "listeners.ops.bind"],
  ["a name and its address", "listeners: { ops: { bind: 'localhost:7401' } }", "listeners.ops.bind"],
  ["one socket", "listeners: { data: { bind: 'unix:/s' }, ops: { bind: 'unix:/s' } }", "listeners.ops.bind"],
])("two listeners on one address are refused: %s", (_, text, key) => {
  expect(problems(text)).toEqual([expect.stringMatching(new RegExp(`^${key}: is the address of`))]);
});

test("listeners on free ports, on other addresses, and one that is not opened do not clash", () => {
  expect(problems("listeners: { data: { bind: '127.0.0.1:0' }, admin: { bind: '127.0.0.1:0' } }")).toEqual([]);
  expect(problems("listeners: { data: { bind: '127.0.0.2:7401' } }")).toEqual([]);
  const validate = JSON.stringify({ mode: "validate", listeners: { data: { bind: "127.0.0.1:7401" } }, ...KEYRING });
  expect(problems(validate, { DATABASE_URL: "postgres://h/d" })).toEqual([]);
});

describe("certificates as callers", () => {
  const mtls = (over: object, sans: string[] = []) => ({
    listeners: { admin: { tls: { cert_file: "c", key_file: "k", client_ca_file: "a", allowed_sans: sans } } },
    callers: { mtls: [{ san: "spiffe://td/ci", tenant: "acme", permissions: ["sallyport.admin"], ...over }] },
  });
  const of = (over: object, sans?: string[]) => problems(JSON.stringify(mtls(over, sans)));

  test("may hold every permission that a call needs, and beginnings of them", () => {
    const needed = ALL_METHODS.map(({ permission }) => permission).filter((one) => one.startsWith("sallyport."));
    expect(of({ permissions: [...new Set(needed), "sallyport.reasons", "sallyport.tokens.*"] })).toEqual([]);
  });

  test.each(["sallyport.token.create", "sallyport.tokens", "sallyport.admins", "sallyport.tokenss.*", "repo:read"])(
    "%s is no permission",
    (permission) => {
      expect(of({ permissions: [permission] })).toEqual([
        expect.stringMatching(/^callers\.mtls\.0\.permissions\.0: must be one of sallyport\.operator, /),
      ]);
    },
  );

  test("have scopes to grant, which are no permissions", () => {
    expect(of({ scopes: ["repo:read", "repo:*"] })).toEqual([]);
    for (const scope of ["sallyport.admin", "a b", ""]) expect(of({ scopes: [scope] }), scope).toHaveLength(1);
  });

  test("must be allowed to connect", () => {
    expect(of({}, ["spiffe://td/other"])).toEqual([expect.stringMatching(/^callers\.mtls\.0\.san: is not in/)]);
    expect(of({}, ["spiffe://td/ci"])).toEqual([]);
  });
});

describe("issuers of sessions", () => {
  const one = { name: "corp", issuer: "https://login.example/realms/corp", audiences: ["sallyport"], tenant: "acme" };
  const groups = [{ group: "platform", permissions: ["sallyport.admin"] }];
  const of = (...sets: object[]) =>
    problems(JSON.stringify({ callers: { oidc: sets.map((set) => ({ ...one, groups, ...set })) } }));
  const other = { name: "other", issuer: "https://other.example", sub_prefix: "other/" };

  test("have defaults: RS256, at+jwt, an hour, 30 seconds, sub and groups", () => {
    const config = yaml(JSON.stringify({ callers: { oidc: [{ ...one, groups }] } }));
    expect(config.callers.oidc).toEqual([
      {
        ...one,
        algorithms: ["RS256"],
        types: ["at+jwt"],
        require: {},
        max_age: 3_600_000,
        clock_skew: 30_000,
        tenants: {},
        principal_claim: "sub",
        sub_prefix: "",
        groups_claim: "groups",
        groups: [{ ...groups[0], scopes: [], roles: [] }],
      },
    ]);
    expect(redacted(config)).toMatchObject({ callers: { oidc: [{ max_age: "1h", clock_skew: "30s" }] } });
  });

  test("accept every key of the documentation, and several issuers", () => {
    const full = {
      jwks_uri: "https://login.example/keys",
      ca_file: "/etc/ca.pem",
      algorithms: ["RS256", "ES256", "EdDSA"],
      types: ["at+jwt", "JWT"],
      require: { typ: "Bearer", "/a/b": "c" },
      max_age: "10m",
      clock_skew: "0s",
      tenant: undefined,
      tenant_claim: "org_id",
      tenants: { org_1: "acme", org_2: "globex" },
      principal_claim: "email",
      groups_claim: "/realm_access/roles",
      groups: [{ group: "*", tenant: "acme", permissions: [], scopes: ["repo:*"], roles: ["deployer"] }],
    };
    expect(of(full, other, { ...other, name: "third", issuer: "http://127.0.0.1:80", sub_prefix: "other/3/" })).toEqual(
      [],
    );
    expect(of({ tenant: undefined, groups: [{ ...groups[0], tenant: "acme" }] })).toEqual([]);
  });

  test.each([
    ["name", { name: "Corp" }],
    ["issuer", { issuer: "http://login.example" }],
    ["issuer", { issuer: "https://u:p@login.example" }],
    ["issuer", { issuer: "https://login.example/?x" }],
    ["issuer", { issuer: "http://127.0.0.1.example/" }],
    ["issuer", { issuer: "http://localhost@evil.example" }],
    ["jwks_uri", { jwks_uri: "http://10.0.0.1/keys" }],
    ["audiences", { audiences: [] }],
    ["algorithms", { algorithms: [] }],
    ["algorithms.0", { algorithms: ["HS256"] }],
    ["algorithms.0", { algorithms: ["none"] }],
    ["types", { types: [] }],
    ["require.a", { require: { a: 1 } }],
    ["max_age", { max_age: "25h" }],
    ["max_age", { max_age: "0s" }],
    ["clock_skew", { clock_skew: "6m" }],
    ["tenant", { tenant: "Acme" }],
    ["tenant_claim", { tenant_claim: "org" }],
    ["tenant_claim", { tenants: { a: "acme" } }],
    ["tenants", { tenant: undefined, tenant_claim: "org" }],
    ["sub_prefix", { sub_prefix: "a b" }],
    ["groups", { groups: [] }],
    ["groups.0.tenant", { tenant: undefined }],
    ["groups.0.tenant", { groups: [{ ...groups[0], tenant: "globex" }] }],
    ["groups.0.permissions.0", { groups: [{ group: "x", permissions: ["sallyport.root"] }] }],
    ["groups.0.scopes.0", { groups: [{ group: "x", scopes: ["sallyport.admin"] }] }],
    ["groups.0.roles.0", { groups: [{ group: "x", roles: ["Deployer"] }] }],
    ["groups.0.roles", { groups: [{ group: "x", roles: Array.from({ length: 17 }, (_, i) => `r${i}`) }] }],
    ["secret", { secret: "x" }],
  ])("%s has a bound: %j", (key, set) => {
    const found = of(set);
    expect(
      found.some((problem) => problem.startsWith(`callers.oidc.0.${key}: `)),
      found.join(),
    ).toBe(true);
  });

  test.each(["name", "issuer", "sub_prefix"] as const)("two with one %s are refused", (key) => {
    const first = { ...one, sub_prefix: "" };
    expect(of({}, { ...other, [key]: first[key] })).toEqual([
      expect.stringMatching(new RegExp(`^callers\\.oidc\\.1\\.${key}: is that of another issuer`)),
    ]);
  });

  test("know the longer prefixes of the others", () => {
    const sets = [{}, other, { ...other, name: "third", issuer: "https://third.example", sub_prefix: "other/3/" }];
    const config = yaml(JSON.stringify({ callers: { oidc: sets.map((set) => ({ ...one, groups, ...set })) } }));
    expect(issuersOf(config).map(({ foreignPrefixes }) => foreignPrefixes)).toEqual([
      ["other/", "other/3/"],
      ["other/3/"],
      [],
    ]);
  });
});

describe("issuers of workloads", () => {
  const one = { name: "github", issuer: "https://token.example" };
  const of = (...issuers: object[]) => problems(JSON.stringify({ federation: { issuers } }));

  test("have few settings, with defaults", () => {
    const config = yaml(JSON.stringify({ federation: { issuers: [one] } }));
    expect(workloadIssuersOf(config)).toEqual([
      {
        ...one,
        ...{ jwksUri: undefined, caFile: undefined, algorithms: ["RS256"], types: ["JWT"], clockSkew: 30_000 },
      },
    ]);
    expect(of(one, { name: "gitlab", issuer: "https://gitlab.example", algorithms: ["ES256"] })).toEqual([]);
  });

  test.each([
    ["name", { name: "No" }],
    ["issuer", { issuer: "http://token.example" }],
    ["jwks_uri", { jwks_uri: "file:///keys" }],
    ["algorithms.0", { algorithms: ["HS256"] }],
    ["algorithms", { algorithms: [] }],
    ["types", { types: [] }],
    ["clock_skew", { clock_skew: "6m" }],
  ])("%s has a bound: %j", (key, set) => {
    const found = of({ ...one, ...set });
    expect(
      found.some((problem) => problem.startsWith(`federation.issuers.0.${key}: `)),
      found.join(),
    ).toBe(true);
  });

  test("know no setting of sessions", () => expect(of({ ...one, groups: [] })).toHaveLength(1));

  test.each(["name", "issuer"] as const)("two with one %s are refused", (key) => {
    const other = { name: "other", issuer: "https://other.example" };
    expect(of(one, { ...other, [key]: one[key] })).toEqual([
      `federation.issuers.1.${key}: is that of another issuer; each issuer needs its own`,
    ]);
  });

  test("have no name of an issuer of sessions", () => {
    const oidc = {
      ...one,
      issuer: "https://login.example",
      audiences: ["a"],
      tenant: "acme",
      groups: [{ group: "*" }],
    };
    const both = { callers: { oidc: [oidc] }, federation: { issuers: [one] } };
    expect(problems(JSON.stringify(both))).toEqual([expect.stringContaining("federation.issuers.0.name: ")]);
  });
});

test("the canary reaches its peers over http, https and unix sockets, and its certificate has a key", () => {
  const peers = (...list: string[]) => problems(JSON.stringify({ canary: { every: "1s", peers: list } }));
  expect(peers("http://h:1", "https://h:1", "unix:/run/s")).toEqual([]);
  for (const peer of ["h:1", "ftp://h", "https://u:p@h", "https://h/path", "unix:s"])
    expect(peers(peer), peer).toEqual([expect.stringMatching(/^canary\.peers\.0: /)]);
  expect(problems("canary: { cert_file: c }")).toEqual([expect.stringMatching(/^canary\.cert_file: /)]);
});

describe("break-glass", () => {
  test.each(["a b".repeat(20), `${"x".repeat(40)}"`, "ä".repeat(40), "x,".repeat(40)])(
    "%j cannot be sent as a bearer, and is refused",
    (secret) => {
      expect(problems(JSON.stringify({ break_glass: { secret } }))).toEqual([
        expect.stringMatching(/^break_glass\.secret: must be of/),
      ]);
    },
  );

  test("a secret in the form of a bearer credential is accepted", () => {
    expect(problems(JSON.stringify({ break_glass: { secret: `${"aZ9-._~+/".repeat(5)}==` } }))).toEqual([]);
  });
});

test("a secret file that every user can read gives a warning; one for its owner and group gives none", () => {
  const keyring = file(JSON.stringify(KEYRING.keyring));
  chmodSync(keyring, 0o644);
  const env = { SALLYPORT_KEYRING_FILE: keyring };
  expect(yaml("", env).warnings).toEqual([expect.stringMatching(/^keyring_file: every user .*0644/)]);
  chmodSync(keyring, 0o640);
  expect(yaml("", env).warnings).toEqual([]);
});

describe("half a configuration is refused", () => {
  const database = "database: { url: postgres://h/d }\n";
  test.each<[string, string, string]>([
    ["a database without a keyring", database, "keyring"],
    ["mode validate without a database", "mode: validate", "database.url"],
    ["a poll that does not fit into the lease", "revocation: { lease: 900ms }", "revocation.poll"],
    [
      "trust in everybody, and in some certificates only",
      "listeners: { data: { trust_peers: true, tls: { cert_file: c, key_file: k, client_ca_file: a, allowed_sans: [x] } } }",
      "listeners.data.trust_peers",
    ],
    ["trust in the world", "listeners: { data: { bind: 0.0.0.0:1, trust_peers: true } }", "listeners.data.trust_peers"],
    [
      "certificates as callers without a CA",
      "callers: { mtls: [{ san: x, tenant: acme, permissions: [sallyport.admin] }] }",
      "callers.mtls",
    ],
    [
      "allowed SANs without a CA",
      "listeners: { data: { tls: { cert_file: c, key_file: k, allowed_sans: [x] } } }",
      "listeners.data.tls.client_ca_file",
    ],
  ])("%s is refused", (_, text, key) => {
    expect(problems(text).some((problem) => problem.startsWith(`${key}: `))).toBe(true);
  });

  test("a complete configuration is accepted, at the edge of the lease's arithmetic", () => {
    expect(problems("revocation: { lease: 981ms, poll: 400ms }")).toEqual([]);
    expect(problems("revocation: { lease: 980ms, poll: 400ms }")).toHaveLength(1);
  });
});

test("a bind is local only on loopback and unix sockets", () => {
  for (const bind of ["unix:/run/x", "127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1"])
    expect(isLocal(bind), bind).toBe(true);
  for (const bind of ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "[::ffff:127.0.0.1]:1", "128.0.0.1:1", "1127.0.0.1:1"])
    expect(isLocal(bind), bind).toBe(false);
});

test("the printed configuration holds no secret, whatever characters a password has", () => {
  const urls = [
    "postgres://user:hunter2@host/db",
    "postgres://user:hun@ter2@host/db",
    "postgres://user:hunter2%40@host:5432/db?sslmode=require",
    "postgres://host/db?user=u&password=hunter2",
    "postgres://:hunter2@host/db",
  ];
  for (const url of urls) {
    const config = yaml(
      JSON.stringify({
        database: { url, direct_url: url },
        redis: { url: "redis://:hunter2@h:1" },
        break_glass: { secret: "hunter2".repeat(6) },
        ...KEYRING,
      }),
    );
    const text = JSON.stringify(redacted(config));
    expect(text, url).not.toMatch(/hunter2|hun@|ter2@/);
    expect(text).not.toContain(KEYRING.keyring.keys["1"]);
    expect(text).toContain("host");
  }
});

describe("signing", () => {
  const settings = signingSettings();
  const { "es-1": _, ...onlyEd } = settings.keys;
  const { d: __, ...publicHalf } = settings.keys["ed-1"]!;
  const full = (signing: object | undefined, profiles: object = {}, more: object = {}) =>
    JSON.stringify({
      ...KEYRING,
      database: { url: "postgres://a@b/c" },
      profiles,
      ...(signing && { signing }),
      ...more,
    });
  const jwt = { pat: { format: "jwt" } };

  test.each<[string, string, string[]]>([
    ["both algorithms", full(settings, { pat: { format: "jwt" }, bot: { format: "jwt", alg: "ES256" } }), []],
    ["no profile that needs it", full(undefined), []],
    ["the embedded database, which makes its own", JSON.stringify({ profiles: jwt }), []],
    [
      "a validating sidecar with public halves",
      full({ issuer: "i", keys: { "ed-1": publicHalf } }, jwt, { mode: "validate" }),
      [],
    ],
    [
      "no signing",
      full(undefined, jwt),
      ["profiles.pat.format: jwt needs signing (or signing_file): no key could sign"],
    ],
    [
      "no key of the algorithm",
      full({ ...settings, current: "ed-1", keys: onlyEd }, { pat: { format: "jwt", alg: "ES256" } }),
      ["profiles.pat.alg: signing.current must name an ES256 key with its private half"],
    ],
    [
      "no current key",
      full({ ...settings, current: undefined }, jwt),
      ["profiles.pat.alg: signing.current must name an EdDSA key with its private half"],
    ],
    [
      "a current key without its private half",
      full({ ...settings, current: "ed-1", keys: { "ed-1": publicHalf } }, jwt),
      ["profiles.pat.alg: signing.current must name an EdDSA key with its private half"],
    ],
    [
      "a current key that is not there",
      full({ ...settings, current: "x" }),
      ["signing: current must be one of the keys"],
    ],
    [
      "the issuer of sessions",
      full({ ...settings, issuer: "https://login.example" }, jwt, {
        callers: {
          oidc: [
            {
              ...{ name: "corp", issuer: "https://login.example", audiences: ["a"] },
              groups: [{ group: "*", tenant: "acme" }],
            },
          ],
        },
      }),
      ["signing.issuer: is callers.oidc.0.issuer; tokens and sessions need their own"],
    ],
    [
      "an issuer of workloads",
      full({ ...settings, issuer: "https://token.example" }, jwt, {
        federation: { issuers: [{ name: "github", issuer: "https://token.example" }] },
      }),
      ["federation.issuers.0.issuer: is signing.issuer; a token of ours is exchanged for no other"],
    ],
    ["no issuer", full({ keys: {} }), ["signing.issuer: Invalid input: expected string, received undefined"]],
    [
      "an issuer with a space",
      full({ ...settings, issuer: "a b" }),
      ["signing.issuer: must be 1 to 256 visible characters"],
    ],
    [
      "another format",
      full(settings, { pat: { format: "paseto" } }),
      [expect.stringContaining("profiles.pat.format: ")],
    ],
    ["another algorithm", full(settings, { pat: { alg: "RS256" } }), [expect.stringContaining("profiles.pat.alg: ")]],
  ])("%s", (_name, text, expected) => {
    expect(problems(text)).toEqual(expected);
  });

  test("comes from a file of its own, and is printed without a byte of a key", () => {
    const config = yaml(full(undefined, jwt), { SALLYPORT_SIGNING_FILE: file(JSON.stringify(settings)) });
    expect(config.signing).toMatchObject({ issuer: settings.issuer });
    expect(config.files).toHaveLength(2);
    const printed = JSON.stringify(redacted(config));
    expect(printed).toContain('"ed-1":"[secret]"');
    for (const { d, x } of Object.values(settings.keys)) {
      expect(printed).not.toContain(String(d));
      expect(printed).not.toContain(String(x));
    }
    expect(problems(full(undefined), { SALLYPORT_SIGNING_FILE: file("") })).toEqual([
      "signing_file: the file is blank",
    ]);
  });
});
