import { randomUUID } from "node:crypto";
import { createLocalJWKSet, decodeJwt, jwtVerify } from "jose";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import { mintTokenString } from "../../src/domain/token-string.ts";
import { byHand } from "../postgres/migrated.ts";
import { AUDIENCE, TestIssuer } from "../sessions/issuer.ts";
import { failure, outcome, seconds, TestSallyport } from "../support/sallyport.ts";
import { forgeries, ISSUER, signingSettings } from "../support/signing.ts";

/* Tokens in JWT form on a real server: every string is checked online, and jose is the offline verifier. */

let issuer: TestIssuer;
let sallyport: TestSallyport;
const signing = signingSettings();
beforeAll(async () => {
  issuer = await TestIssuer.open();
  sallyport = await TestSallyport.start({
    config: {
      signing,
      profiles: {
        pat: { format: "jwt", minted_by: ["session", "admin", "token"] },
        bot: { format: "jwt", alg: "ES256" },
        adm: { format: "jwt", self_rotate: true },
      },
      callers: {
        oidc: [
          { name: "corp", issuer: issuer.url, audiences: [AUDIENCE], groups: [{ group: "staff", tenant: "default" }] },
        ],
      },
      log: { level: "trace" },
    },
  });
  await sallyport.registered("bot:ci");
});
afterAll(async () => {
  await sallyport?.stop();
  await issuer?.close();
});

const bot = (more: object = {}) => sallyport.createToken({ profile: "bot", principal: "bot:ci", ...more });

async function jwks(listener: "data" | "admin"): Promise<{ keys: Record<string, unknown>[] }> {
  const answer = await fetch(`${sallyport.listeners[listener]}/.well-known/jwks.json`);
  expect(answer.status).toBe(200);
  expect(answer.headers.get("cache-control")).toBe("public, max-age=300");
  expect(answer.headers.get("content-type")).toBe("application/jwk-set+json");
  return answer.json() as never;
}

const verify = async (text: string) =>
  (await jwtVerify(text, createLocalJWKSet(await jwks("data")), { issuer: ISSUER, algorithms: ["EdDSA", "ES256"] }))
    .payload;

describe("the key set", () => {
  test("is the same on the data and the admin listener, without a credential, and holds public keys only", async () => {
    const [data, admin] = [await jwks("data"), await jwks("admin")];
    expect(data).toEqual(admin);
    expect(data.keys.map(({ kid, alg, use }) => ({ kid, alg, use }))).toEqual([
      { kid: "ed-1", alg: "EdDSA", use: "sig" },
      { kid: "es-1", alg: "ES256", use: "sig" },
    ]);
    for (const key of data.keys) expect(Object.keys(key)).not.toContain("d");
    for (const listener of ["data", "admin"] as const) {
      const url = `${sallyport.listeners[listener]}/.well-known/jwks.json`;
      expect(await (await fetch(url, { method: "HEAD" })).text()).toBe("");
      expect((await fetch(url, { method: "POST", body: "{}" })).status).toBe(405);
    }
  });
});

describe("a token in JWT form", () => {
  test("is verified by jose, states what its row holds, and is allowed online", async () => {
    const { tokenString, token } = await sallyport.createToken({
      ...{ scopes: ["repo:read", "repo:write"], audiences: ["https://api.example"] },
      lifetime: { case: "ttl", value: seconds(3_600) },
    });
    const claims = await verify(tokenString);
    expect(claims).toEqual({
      ...{ iss: ISSUER, sub: "user:ann", jti: token.id, typ: "pat", tenant: "default", scope: "repo:read repo:write" },
      ...{
        aud: ["https://api.example"],
        iat: Number(token.createTime!.seconds),
        exp: Number(token.expireTime!.seconds),
      },
    });
    expect(token.hint).toBe(token.id.slice(0, 12));
    const again = async () =>
      sallyport.verdict(tokenString, { requiredScopes: ["repo:read"], audience: "https://api.example" });
    expect([await again(), await again()]).toEqual(["ALLOW", "ALLOW"]);
    const [row] = await sallyport.sql<object>("select format, signing_key from sallyport.tokens where id = $1", [
      token.id,
    ]);
    expect(row).toEqual({ format: "jwt", signing_key: "ed-1" });
  });

  test("has no end in its claims if it never expires, and verifies with ES256, too", async () => {
    const { tokenString } = await bot({ lifetime: { case: "noExpiry", value: true } });
    expect(await verify(tokenString)).not.toHaveProperty("exp");
    expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  });

  test("is refused online from the moment of its revocation, although its signature stays good", async () => {
    const ways: [string, (made: { id: string; tokenString: string }) => Promise<unknown>][] = [
      ["by id", ({ id }) => sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } })],
      [
        "by its string",
        ({ tokenString: value }) => sallyport.admin.tokens.revokeToken({ target: { case: "tokenString", value } }),
      ],
      [
        "in bulk by its string",
        ({ tokenString }) => sallyport.admin.tokens.revokeTokens({ tokenStrings: [tokenString] }),
      ],
      ["in bulk by its hint", ({ id }) => sallyport.admin.tokens.revokeTokens({ hints: [id.slice(0, 12)] })],
      [
        "by RFC 7009",
        async ({ tokenString }) => {
          const headers = {
            authorization: `Bearer ${sallyport.adminToken}`,
            "content-type": "application/x-www-form-urlencoded",
          };
          expect((await sallyport.post("admin", "/v1/revoke", `token=${tokenString}`, headers)).status).toBe(200);
        },
      ],
    ];
    for (const [name, revoke] of ways) {
      for (const made of [await sallyport.createToken(), await bot()]) {
        expect(await sallyport.verdict(made.tokenString), name).toBe("ALLOW");
        await revoke(made);
        expect(await sallyport.verdict(made.tokenString), name).toBe("INVALID_TOKEN");
        expect(await verify(made.tokenString), name).toMatchObject({ jti: made.id });
      }
    }
  });

  test("claims decide nothing: a change of the row counts, whatever the string says", async () => {
    const { tokenString, id } = await sallyport.createToken({ scopes: ["a", "b"] });
    await sallyport.admin.tokens.updateToken({ token: { id, scopes: ["c"] }, updateMask: { paths: ["scopes"] } });
    expect(decodeJwt(tokenString)["scope"]).toBe("a b");
    expect(await sallyport.verdict(tokenString, { requiredScopes: ["a"] })).toBe("INSUFFICIENT_SCOPE");
    expect(await sallyport.verdict(tokenString, { requiredScopes: ["c"] })).toBe("ALLOW");
  });

  test("is rotated to another one", async () => {
    const { tokenString, id } = await sallyport.createToken({ scopes: ["a"] });
    const made = await sallyport.admin.tokens.rotateToken({ id });
    expect(await verify(made.tokenString)).toMatchObject({ jti: made.token!.id, scope: "a" });
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    expect(await sallyport.verdict(made.tokenString)).toBe("ALLOW");
  });

  test("comes again to the same request_id with EdDSA, created and rotated, also to a caller that it ended", async () => {
    const request = { requestId: randomUUID(), principal: "user:once", scopes: ["a"] };
    const [first, second] = [await sallyport.createToken(request), await sallyport.createToken(request)];
    expect(second).toMatchObject({ tokenString: first.tokenString, id: first.id });
    const rotation = { id: first.id, requestId: randomUUID() };
    const rotated = await sallyport.admin.tokens.rotateToken(rotation);
    expect((await sallyport.admin.tokens.rotateToken(rotation)).tokenString).toBe(rotated.tokenString);
    expect(rotated.tokenString).not.toBe(first.tokenString);
    const itself = await sallyport.callerWith(["sallyport.tokens.create"]);
    const own = { id: itself.id, requestId: randomUUID() };
    const ask = () => sallyport.as(itself.tokenString).tokens.rotateToken(own);
    const answers = [await ask(), await ask()];
    expect(answers[1]!.tokenString).toBe(answers[0]!.tokenString);
    expect(await sallyport.verdict(answers[1]!.tokenString)).toBe("ALLOW");
  });

  test("takes no request_id with ES256, whose signatures cannot be made again", async () => {
    const { id } = await bot();
    for (const call of [
      () => bot({ requestId: randomUUID() }),
      () => sallyport.admin.tokens.rotateToken({ id, requestId: randomUUID() }),
    ]) {
      expect(await failure(call())).toMatchObject({ reason: "INVALID_FIELD", violations: [{ field: "request_id" }] });
    }
  });

  test("is not made if it would be longer than 4,096 characters", async () => {
    const scopes = Array.from({ length: 40 }, (_, i) => `${i}:${"x".repeat(100)}`);
    const refused = await failure(sallyport.createToken({ principal: "user:long", scopes }));
    expect(refused).toMatchObject({ reason: "INVALID_FIELD", violations: [{ field: "scopes" }] });
    expect(await sallyport.sql("select from sallyport.tokens where principal = 'user:long'")).toEqual([]);
  });

  test("of a child ends no later than its parent, in its claims, too", async () => {
    const lifetime = { case: "ttl" as const, value: seconds(600) };
    const parent = await sallyport.createToken({ scopes: ["sallyport.tokens.create", "a"], lifetime });
    const child = await sallyport.createToken({ scopes: ["a"] }, sallyport.as(parent.tokenString));
    expect((await verify(child.tokenString)).exp).toBe((await verify(parent.tokenString)).exp);
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: parent.id } });
    expect(await sallyport.verdict(child.tokenString)).toBe("INVALID_TOKEN");
  });

  test("is introspected", async () => {
    const { tokenString, id } = await sallyport.createToken({ scopes: ["a"] });
    const ask = async () => {
      const type = { "content-type": "application/x-www-form-urlencoded" };
      return (await sallyport.post("data", "/v1/introspect", `token=${tokenString}`, type)).json();
    };
    expect(await ask()).toMatchObject({ active: true, jti: id, scope: "a", sub: "user:ann" });
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } });
    expect(await ask()).toEqual({ active: false });
  });
});

describe("as the credential of a caller", () => {
  test("it is a token and never a session, although sessions are JWTs, too", async () => {
    const { tokenString, token } = await sallyport.callerWith(["sallyport.admin"]);
    const { tokens } = await sallyport.as(tokenString).tokens.listTokens({});
    expect(tokens.length).toBeGreaterThan(0);
    const made = await sallyport.createToken({}, sallyport.as(tokenString));
    expect(made.token.createdBy).toBe(`token:${token.hint}`);
    const before = issuer.requests.length;
    for (const [name, text] of forgeries(tokenString, (await bot()).tokenString)) {
      if (/[^\x21-\x7e]/.test(text)) continue;
      expect(await outcome(sallyport.as(text).tokens.listTokens({})), name).toBe("CALLER_UNAUTHENTICATED");
    }
    expect(issuer.requests.length).toBe(before);
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: token.id } });
    expect(await outcome(sallyport.as(tokenString).tokens.listTokens({}))).toBe("CALLER_UNAUTHENTICATED");
    const session = await issuer.jwt({ claims: { sub: "ann", groups: ["staff"] } });
    expect(await outcome(sallyport.as(session).tokens.listTokens({}))).toBe("OK");
    expect(await sallyport.verdict(session)).toBe("INVALID_TOKEN");
  });
});

test("no forgery is allowed by any listener, and none reaches the database", async () => {
  const [ed, es] = [(await sallyport.createToken()).tokenString, (await bot()).tokenString];
  expect([await sallyport.verdict(ed), await sallyport.verdict(es)]).toEqual(["ALLOW", "ALLOW"]);
  const misses = async () => {
    const text = await (await fetch(`${sallyport.listeners.ops}/metrics`)).text();
    const tiers = [...text.matchAll(/^sallyport_validations_total\{.*tier="(\w+)".*\} (\d+)$/gm)];
    return tiers.filter(([, tier]) => tier === "store").reduce((sum, [, , n]) => sum + Number(n), 0);
  };
  const before = await misses();
  for (const [name, text] of forgeries(ed, es)) expect(await sallyport.verdict(text), name).toBe("INVALID_TOKEN");
  expect(await misses()).toBe(before);
});

test("a forged caller of RotateToken costs no read: the database is not asked before the call is admitted", async () => {
  const { tokenString, id } = await sallyport.createToken();
  const [header, claims] = tokenString.split(".") as [string, string];
  const { current } = sallyport.keyring;
  const stranger = new Keyring(current, { [current]: freshKeyring().keys["1"]! });
  const forged = [
    `${header}.${claims}.${"A".repeat(86)}`,
    mintTokenString("sp_adm", stranger.current).tokenString.reveal(),
  ];
  const holder = await byHand(sallyport.database.url);
  await holder.query("begin; lock table sallyport.tokens in access exclusive mode");
  try {
    for (const text of forged) {
      expect(await outcome(sallyport.as(text).tokens.rotateToken({ id }))).toBe("CALLER_UNAUTHENTICATED");
    }
  } finally {
    await holder.query("rollback");
  }
});

test("no string and no private key is in the log or in the database", async () => {
  const { tokenString, id } = await sallyport.createToken({ requestId: randomUUID() });
  await outcome(sallyport.createToken({ displayName: `my ${tokenString}` }));
  await outcome(sallyport.createToken({ scopes: [tokenString] }));
  await outcome(sallyport.admin.tokens.listTokens({ principal: tokenString }));
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id }, reason: "leaked" });
  expect(
    await outcome(
      sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id }, reason: `saw ${tokenString}` }),
    ),
  ).toBe("INVALID_FIELD");
  const rows = await sallyport.sql<{ row: string }>(
    `select t::text as row from sallyport.tokens t union all select a::text from sallyport.audit a
     union all select r::text from sallyport.requests r`,
  );
  const sinks = [sallyport.program.out, sallyport.program.err, ...rows.map(({ row }) => row)].join("\n");
  const secrets = [tokenString.split(".")[2]!.slice(0, 80), ...Object.values(signing.keys).map(({ d }) => String(d))];
  for (const secret of secrets) {
    expect(sinks).not.toContain(secret);
    expect(sinks).not.toContain(Buffer.from(secret, "base64url").toString("hex"));
  }
});
