import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TokenValidator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { bootstrap } from "../../src/postgres/first-admin.ts";
import { ALL_METHODS } from "../../src/rpc/methods.ts";
import { folder, freshKeyring, run } from "../support/program.ts";
import { failure, migratedDatabase, outcome, type Protocol, TestSallyport } from "../support/sallyport.ts";

const SECRET = "break-glass-".padEnd(40, "x");
async function one(url: string, text: string) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}

let sallyport: TestSallyport;
const place = folder();
beforeAll(async () => {
  writeFileSync(join(place.path, "secret"), `${SECRET}\n`, { mode: 0o600 });
  sallyport = await TestSallyport.start({
    config: {
      break_glass: { secret_file: join(place.path, "secret") },
      profiles: { adm: { max_live_per_principal: 0 } },
    },
  });
});
afterAll(async () => {
  await sallyport?.stop();
  place.remove();
});

/** The RPCs of the admin listener that need a credential, by name. */
const ADMIN_RPCS = new Map(
  ALL_METHODS.filter(({ listener, permission }) => listener === "admin" && permission !== "open").map((method) => [
    method.name,
    method,
  ]),
);

const PROTOCOLS: readonly Protocol[] = ["connect-json", "connect", "grpc", "grpc-web"];

describe("without a good credential", () => {
  test.each([...ADMIN_RPCS.keys()])(
    "%s is UNAUTHENTICATED with a challenge, by every wrong credential",
    async (method) => {
      const { tokenString, id } = await sallyport.createToken();
      await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id }, noWait: true });
      const bad = [
        undefined,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        `Basic ${Buffer.from("a:b").toString("base64")}`,
        `Bearer ${sallyport.adminToken}x`,
        `Bearer ${sallyport.adminToken}, Bearer ${sallyport.adminToken}`,
        sallyport.adminToken,
        `Bearer ${tokenString}`,
      ];
      for (const authorization of bad) {
        const response = await sallyport.post(
          "admin",
          `/${method}`,
          {},
          authorization === undefined ? {} : { authorization },
        );
        expect(response.status, String(authorization).slice(0, 16)).toBe(401);
        expect(response.headers.get("www-authenticate")).toBe('Bearer realm="sallyport"');
        expect(await response.json()).toMatchObject({ code: "unauthenticated" });
      }
    },
  );

  test("the answer is the same over every protocol, and health, reflection and the schema need none", async () => {
    for (const protocol of PROTOCOLS) {
      expect((await failure(sallyport.as(undefined, protocol).tokens.listTokens({}))).reason).toBe(
        "CALLER_UNAUTHENTICATED",
      );
    }
    const health = await sallyport.post("admin", "/grpc.health.v1.Health/Check", {});
    expect([health.status, await health.json()]).toEqual([200, { status: "SERVING" }]);
    expect((await fetch(`${sallyport.listeners.admin}/openapi.json`)).status).toBe(200);
  });

  test("a token in a URL is no credential, and gets no answer", async () => {
    const query = `?message=%7B%7D&encoding=json&connect=v1`;
    const path = `${sallyport.listeners.admin}/sallyport.v1.TokenAdmin/ListTokens${query}`;
    expect(
      (await fetch(`${path}&access_token=${sallyport.adminToken}&authorization=Bearer%20${sallyport.adminToken}`))
        .status,
    ).toBe(401);
    const get = await fetch(path, {
      headers: { authorization: `Bearer ${sallyport.adminToken}`, "connect-protocol-version": "1" },
    });
    expect(get.status).toBe(200);
    for (const mutation of ["CreateToken", "RevokeToken", "RevokeTokens", "RotateToken", "UpdateToken"]) {
      const response = await fetch(`${sallyport.listeners.admin}/sallyport.v1.TokenAdmin/${mutation}${query}`, {
        headers: { authorization: `Bearer ${sallyport.adminToken}` },
      });
      expect(response.status, mutation).toBe(405);
    }
  });
});

describe("with a live token that lacks the permission", () => {
  test("every call that is not for the caller itself is PERMISSION_DENIED, and names the missing permission", async () => {
    const weak = (await sallyport.callerWith(["sallyport.reasons"])).tokenString;
    for (const { name, path, own, permission } of ADMIN_RPCS.values()) {
      if (own === "anyone") continue;
      const response = await sallyport.post("admin", path, {}, { authorization: `Bearer ${weak}` });
      expect(response.status, name).toBe(403);
      expect(await response.text()).toContain(permission);
    }
  });

  test("a permission ends with its token, at the answer to the revocation", async () => {
    const caller = await sallyport.callerWith(["sallyport.tokens.read"]);
    const by = sallyport.as(caller.tokenString);
    expect(await outcome(by.tokens.listTokens({}))).toBe("OK");
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: caller.id } });
    expect(await outcome(by.tokens.listTokens({}))).toBe("CALLER_UNAUTHENTICATED");
  });

  test("a permission that an update removes is gone at its answer", async () => {
    const caller = await sallyport.callerWith(["sallyport.tokens.read", "sallyport.audit.read"]);
    const by = sallyport.as(caller.tokenString);
    expect(await outcome(by.audit.listAuditEvents({}))).toBe("OK");
    await sallyport.admin.tokens.updateToken({
      token: { id: caller.id, scopes: ["sallyport.tokens.read"] },
      updateMask: { paths: ["scopes"] },
    });
    expect(await outcome(by.audit.listAuditEvents({}))).toBe("CALLER_FORBIDDEN");
  });

  test("a caller's own token is bound to its networks", async () => {
    const far = await sallyport.callerWith(["sallyport.tokens.read"], { allowedCidrs: ["203.0.113.0/24"] });
    expect(await outcome(sallyport.as(far.tokenString).tokens.listTokens({}))).toBe("CALLER_UNAUTHENTICATED");
    const near = await sallyport.callerWith(["sallyport.tokens.read"], { allowedCidrs: ["127.0.0.0/8"] });
    expect(await outcome(sallyport.as(near.tokenString).tokens.listTokens({}))).toBe("OK");
  });
});

describe("break-glass", () => {
  test("its secret makes an operator, its tokens record it, and each use is audited", async () => {
    const by = sallyport.as(SECRET);
    const made = await sallyport.createToken({ principal: "user:glass" }, by);
    expect(made.token.createdBy).toBe("break-glass");
    await by.tenants.listTenants({});
    const { events } = await sallyport.admin.audit.listAuditEvents({ actor: "break-glass" });
    expect(events.map(({ action, target }) => [action, target])).toEqual([
      ["caller.break-glass", "rpc:sallyport.v1.TenantAdmin/ListTenants"],
      ["token.create", `token:${made.id}`],
      ["caller.break-glass", "rpc:sallyport.v1.TokenAdmin/CreateToken"],
    ]);
  });

  test("an almost correct secret authenticates nobody", async () => {
    for (const bearer of [SECRET.slice(0, -1), `${SECRET}x`, SECRET.toUpperCase(), "x"]) {
      expect(await outcome(sallyport.as(bearer).tenants.listTenants({}))).toBe("CALLER_UNAUTHENTICATED");
    }
  });

  test("a secret below 32 bytes does not start, and is not printed", async () => {
    const { code, err, out } = await run(["check-config"], { SALLYPORT_BREAK_GLASS__SECRET: "too-short-secret" });
    expect([code, err]).toEqual([78, expect.stringContaining("break_glass.secret")]);
    expect(err + out).not.toContain("too-short-secret");
  });
});

describe("the data listener", () => {
  test("trusts its peers on loopback: anybody may ask, and an invalid credential changes nothing", async () => {
    const { tokenString } = await sallyport.createToken();
    for (const protocol of ["connect-json", "connect", "grpc"] as const) {
      for (const bearer of [undefined, "nonsense", sallyport.adminToken]) {
        const validator = sallyport.client(TokenValidator, "data", protocol, bearer);
        expect((await validator.validateToken({ tokenString })).verdict, `${protocol} ${bearer}`).toBe(1);
      }
    }
  });

  test("has no admin service, no reflection, and the admin listener no validator", async () => {
    for (const [listener, path] of [
      ["data", "sallyport.v1.TokenAdmin/ListTokens"],
      ["data", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"],
      ["admin", "sallyport.v1.TokenValidator/ValidateToken"],
      ["ops", "sallyport.v1.TokenAdmin/ListTokens"],
      ["ops", "sallyport.v1.TokenValidator/ValidateToken"],
    ] as const) {
      const response = await sallyport.post(
        listener,
        `/${path}`,
        {},
        { authorization: `Bearer ${sallyport.adminToken}` },
      );
      expect([404, 405, 415, 501], `${listener} ${path}`).toContain(response.status);
    }
  });

  test("requires sallyport.validate from untrusted peers; without it no token is disclosed", async () => {
    await using strict = await TestSallyport.start({
      config: {
        listeners: {
          data: { bind: "127.0.0.1:0", trust_peers: false },
          admin: { bind: "127.0.0.1:0" },
          ops: { bind: "127.0.0.1:0" },
        },
      },
    });
    const { tokenString } = await strict.createToken();
    const asked = async (bearer: string | undefined, protocol: Protocol) =>
      outcome(strict.client(TokenValidator, "data", protocol, bearer).validateToken({ tokenString }));
    const weak = (await strict.callerWith(["sallyport.reasons", "sallyport.tokens.*"])).tokenString;
    const right = (await strict.callerWith(["sallyport.validate"])).tokenString;
    for (const protocol of ["connect-json", "connect", "grpc"] as const) {
      expect(await asked(undefined, protocol)).toBe("CALLER_UNAUTHENTICATED");
      expect(await asked("nonsense", protocol)).toBe("CALLER_UNAUTHENTICATED");
      expect(await asked(tokenString, protocol)).toBe("CALLER_FORBIDDEN");
      expect(await asked(weak, protocol)).toBe("CALLER_FORBIDDEN");
      expect(await asked(right, protocol)).toBe("OK");
    }
    const refused = strict.program.out.split("\n").filter((line) => line.includes("CALLER_UNAUTHENTICATED"));
    expect(refused.map((line) => JSON.parse(line).address)).toEqual(Array.from({ length: 6 }, () => "127.0.0.1"));
  });

  test("accepts any string as a token string, and refuses only bounds that a caller can know", async () => {
    const ask = (more: object) => sallyport.validator.validateToken({ tokenString: "x", ...more });
    for (const tokenString of ["", "x".repeat(60_000), "\0", "🎉".repeat(1000)]) {
      expect((await ask({ tokenString })).verdict).toBe(2);
    }
    expect(await outcome(ask({ requiredScopes: Array.from({ length: 32 }, (_, i) => `s${i}`) }))).toBe("OK");
    expect((await failure(ask({ requiredScopes: Array.from({ length: 33 }, () => "s") }))).violations).toEqual([
      { field: "required_scopes", description: "must have at most 32 entries" },
    ]);
    expect(await outcome(ask({ audience: "a".repeat(256) }))).toBe("OK");
    expect((await failure(ask({ audience: "a".repeat(257) }))).violations[0]?.field).toBe("audience");
    const batch = (n: number, more: object = {}) =>
      sallyport.validator.batchValidateTokens({
        requests: Array.from({ length: n }, () => ({ tokenString: "x", ...more })),
      });
    expect((await batch(100)).responses).toHaveLength(100);
    for (const n of [0, 101]) expect((await failure(batch(n))).violations[0]?.field).toBe("requests");
    expect((await failure(batch(2, { audience: "a".repeat(257) }))).violations[0]?.field).toBe("requests[0].audience");
  });

  test("judges requirements exactly: a required scope is no wildcard, a granted one may be", async () => {
    const { tokenString } = await sallyport.createToken({
      scopes: ["repo:*", "user.read"],
      audiences: ["https://a.example"],
    });
    const verdict = (requiredScopes: string[], audience = "https://a.example") =>
      sallyport.verdict(tokenString, { requiredScopes, audience });
    expect(await verdict([])).toBe("ALLOW");
    expect(await verdict(["repo:read", "user.read"])).toBe("ALLOW");
    for (const missing of ["repo", "user.*", "user", "user.readonly", "REPO:read", ""]) {
      expect(await verdict([missing]), missing).toBe("INSUFFICIENT_SCOPE");
    }
    expect(await verdict([], "")).toBe("WRONG_AUDIENCE");
    expect(await verdict([], "https://a.example/")).toBe("WRONG_AUDIENCE");
  });
});

describe("bootstrap", () => {
  test("of 50 at once one creates a token and 49 exit 1; the token is an operator's, and no second one follows when its row ends", async () => {
    const database = await migratedDatabase();
    const keyring = freshKeyring();
    const file = join(place.path, "keyring.json");
    writeFileSync(file, JSON.stringify(keyring), { mode: 0o600 });
    const env = {
      DATABASE_URL: database.url,
      SALLYPORT_KEYRING_FILE: file,
      SALLYPORT_DATABASE__ALLOW_FSYNC_OFF: "true",
    };
    // Four programs, and 46 calls in this one: the database's order is under test.
    const kept: string[] = [];
    const patient = async (triesLeft = 20): Promise<boolean> => {
      try {
        return await bootstrap({
          url: database.url,
          keyring,
          ttlMs: 30 * 86_400_000,
          again: false,
          keep: (secret) => kept.push(secret.reveal()),
        });
      } catch (error) {
        // A busy machine answers some connections too late. Then nothing was done.
        if ((error as { reason?: string }).reason === "NOT_DONE" && triesLeft > 0) return patient(triesLeft - 1);
        throw error;
      }
    };
    const inside = Promise.allSettled(Array.from({ length: 46 }, () => patient()));
    const programs = await Promise.all(Array.from({ length: 4 }, () => run(["bootstrap"], env)));
    const settled = await inside;
    expect(settled.filter(({ status }) => status === "rejected")).toEqual([]);
    const winners = settled.filter((done) => done.status === "fulfilled" && done.value);
    const made = [...winners, ...programs.filter(({ code }) => code === 0)];
    expect(made).toHaveLength(1);
    for (const { code, out, err } of programs) {
      if (code === 0) expect([out, err]).toEqual([expect.stringMatching(/^sp_adm_1[0-9A-Za-z]{57}\n$/), ""]);
      else expect([code, out, err]).toEqual([1, "", expect.stringContaining("--again")]);
    }
    const first = kept[0] ?? programs.find(({ code }) => code === 0)!.out.trim();
    const [row] = await one(database.url, "select count(*)::int as n from sallyport.tokens");
    expect(row).toEqual({ n: 1 });

    const server = await TestSallyport.start({ database, keyring });
    const by = server.as(first);
    const { tokens } = await by.tokens.listTokens({});
    expect(tokens).toMatchObject([
      {
        principal: "user:admin",
        profile: "adm",
        createdBy: "bootstrap",
        scopes: ["sallyport.operator"],
        tenant: "default",
      },
    ]);
    expect(Number(tokens[0]!.expireTime!.seconds - tokens[0]!.createTime!.seconds)).toBe(30 * 86_400);

    const again = await run(["bootstrap", "--again", "--ttl", "1h"], env);
    expect(again.code).toBe(0);
    expect(await outcome(server.as(again.out.trim()).tenants.listTenants({}))).toBe("OK");
    await by.tokens.revokeTokens({ principal: "user:admin" });
    expect(await run(["bootstrap"], env)).toMatchObject({ code: 1, out: "" });
    await server.stop();
    await database.drop();
  }, 120_000);

  test.each([["--ttl", "0s"], ["--ttl", "366d"], ["--ttl", "soon"], ["--nonsense"]])(
    "%s %s is a usage error",
    async (...argv) => {
      const { code, out, err } = await run(["bootstrap", ...argv]);
      expect([code, out]).toEqual([2, ""]);
      expect(err).toMatch(/^sallyport: /);
    },
  );
});

test("an empty token table changes nothing about who may call", async () => {
  await using bare = await TestSallyport.start();
  await bare.admin.tokens.revokeTokens({ tenant: "default" });
  await bare.sql("alter table sallyport.tokens disable trigger all");
  await bare.sql("delete from sallyport.tokens");
  for (const bearer of [undefined, bare.adminToken, "nonsense"]) {
    expect(
      await outcome(bare.as(bearer).tokens.createToken({ profile: "pat", principal: "user:ann", displayName: "x" })),
    ).toBe("CALLER_UNAUTHENTICATED");
  }
});

test("the program prints no part of a call's credential", () => {
  for (const secret of [SECRET, sallyport.adminToken])
    expect(sallyport.program.out + sallyport.program.err).not.toContain(secret);
  expect(statSync(join(place.path, "secret")).mode & 0o777).toBe(0o600);
  expect(readFileSync(join(place.path, "secret"), "utf8")).toContain(SECRET);
});
