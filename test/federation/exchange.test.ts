import { once } from "node:events";
import { connect } from "node:net";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AuditOutcome } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { TestIssuer } from "../sessions/issuer.ts";
import { outcome, seconds, TestSallyport } from "../support/sallyport.ts";
import { AUDIENCE, exchange, PLATFORMS, type PlatformName, ruleFor, TestPlatform } from "./platforms.ts";

let platform: TestPlatform;
let one: TestSallyport;
let two: TestSallyport;
beforeAll(async () => {
  platform = new TestPlatform(await TestIssuer.open());
  const config = platform.config;
  one = await TestSallyport.start({ config });
  two = await TestSallyport.start({ config, database: one.database, keyring: one.keyring });
  await one.registered("bot:ci");
});
afterAll(async () => {
  await two?.stop();
  await one?.stop();
  await platform?.issuer.close();
});

const NAMES = Object.keys(PLATFORMS) as PlatformName[];
const INVALID = {
  error: "invalid_grant",
  error_description: "the subject token is not exchanged by this rule",
  reason: "INVALID_GRANT",
};
const minted = async (id: string) =>
  (await one.admin.tokens.listTokens({ createdBy: `rule:${id}`, pageSize: 500 })).tokens;

async function outcomes(of: TestSallyport): Promise<Record<string, number>> {
  const text = await (await fetch(`${of.listeners.ops}/metrics`)).text();
  const lines = [...text.matchAll(/^sallyport_exchanges_total\{outcome="(\w+)"\} (\d+)$/gm)];
  return Object.fromEntries(lines.map(([, name, count]) => [name!, Number(count)]));
}

describe("an exchange", () => {
  test.each(NAMES)("of a JWT as %s makes it gives a token of the rule", async (name) => {
    const { id, name: ruleName } = await ruleFor(one, name, { maxTtl: seconds(600) });
    const { status, body, headers } = await exchange(one, id, await platform.jwt(name));
    expect([status, body["error_description"]]).toEqual([200, undefined]);
    expect(body).toMatchObject({
      issued_token_type: "urn:ietf:params:oauth:token-type:access_token",
      token_type: "Bearer",
      expires_in: 600,
      scope: "deploy repo:*",
    });
    expect(headers.get("cache-control")).toBe("no-store");
    const string = body["access_token"] as string;
    for (const at of [one, two]) expect(await at.verdict(string, { requiredScopes: ["repo:read"] })).toBe("ALLOW");
    const [token] = await minted(id);
    const { claims } = PLATFORMS[name];
    expect(token).toMatchObject({ createdBy: `rule:${id}`, principal: "bot:ci", displayName: ruleName });
    expect(Number(token!.expireTime!.seconds - token!.createTime!.seconds)).toBeLessThanOrEqual(600);
    const { events } = await one.admin.audit.listAuditEvents({ actor: `rule:${id}` });
    expect(events).toHaveLength(1);
    expect(events[0]).toMatchObject({ action: "token.create", target: `token:${token!.id}`, outcome: AuditOutcome.OK });
    expect(events[0]!.metadata).toMatchObject({ subject: claims.sub });
  });

  test("narrows the scopes that are asked for, and refuses wider ones with a face of their own", async () => {
    const { id } = await ruleFor(one, "github");
    const narrow = await exchange(one, id, await platform.jwt("github"), { scope: "repo:read deploy" });
    expect(narrow.body).toMatchObject({ scope: "repo:read deploy" });
    for (const scope of ["admin", "deploy admin", "repo.*", "*", "sallyport.admin", 'a"b']) {
      const jwt = await platform.jwt("github");
      const { status, body } = await exchange(one, id, jwt, { scope });
      expect([status, body["error"], body["reason"]], scope).toEqual([400, "invalid_scope", "INVALID_SCOPE"]);
      // It was not used up.
      expect((await exchange(one, id, jwt)).status).toBe(200);
    }
    // A stranger learns nothing about the rule's scopes.
    const forged = await platform.jwt("github", { key: 1 });
    expect((await exchange(one, id, forged, { scope: "admin" })).body).toEqual(INVALID);
  });

  test("of one JWT at once on two instances mints once", async () => {
    for (const name of ["github", "spiffe"] as const) {
      const { id } = await ruleFor(one, name);
      const jwt = await platform.jwt(name, name === "spiffe" ? { claims: { nonce: id } } : {});
      const both = await Promise.all(
        [one, two, one, two, one, two, one, two].map((at) => exchange(at, id, jwt).then(({ status }) => status)),
      );
      expect(both.sort()).toEqual([200, ...Array.from({ length: 7 }, () => 400)]);
      expect(await minted(id)).toHaveLength(1);
    }
  });

  test("counts one JWT once, whatever the rule and however its signature is written", async () => {
    const [first, second] = [await ruleFor(one, "github"), await ruleFor(one, "github")];
    const jwt = await platform.jwt("github", { without: ["jti"] });
    expect((await exchange(one, first.id, jwt)).status).toBe(200);
    expect((await exchange(two, second.id, jwt)).body).toEqual(INVALID);
    // 2048 bits leave four bits of the last character unread.
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const last = alphabet.indexOf(jwt.at(-1)!);
    const other = jwt.slice(0, -1) + alphabet[last ^ 1];
    expect((await exchange(one, first.id, other)).body).toEqual(INVALID);
  });

  test("of one JWT can be repeated by a rule for many uses, as those of Kubernetes are", async () => {
    const { id } = await ruleFor(one, "kubernetes");
    const jwt = await platform.jwt("kubernetes");
    for (const at of [one, two, one]) expect((await exchange(at, id, jwt)).status).toBe(200);
    expect(await minted(id)).toHaveLength(3);
  });

  test("is limited per rule and hour, and not by the mints of its principal", async () => {
    const { id } = await ruleFor(one, "kubernetes", { maxMintsPerHour: 2 });
    const jwt = await platform.jwt("kubernetes");
    for (let i = 0; i < 2; i++) expect((await exchange(one, id, jwt)).status).toBe(200);
    const { status, body, headers } = await exchange(two, id, jwt);
    expect([status, body["error"], body["reason"]]).toEqual([429, "temporarily_unavailable", "LIMIT_EXCEEDED"]);
    expect(Number(headers.get("retry-after"))).toBeGreaterThan(3000);
  });

  test("needs an active principal and tenant, and a rule that is not disabled, with one face", async () => {
    const { id, name } = await ruleFor(one, "github", { principal: await one.registered("bot:off") });
    await one.admin.principals.updatePrincipal({
      principal: { name: "bot:off", state: 2 },
      updateMask: { paths: ["state"] },
    });
    expect((await exchange(one, id, await platform.jwt("github"))).body).toEqual(INVALID);
    await one.admin.principals.updatePrincipal({
      principal: { name: "bot:off", state: 1 },
      updateMask: { paths: ["state"] },
    });
    expect((await exchange(one, id, await platform.jwt("github"))).status).toBe(200);
    await one.admin.federation.deleteTrustRule({ name });
    expect((await exchange(one, id, await platform.jwt("github"))).body).toEqual(INVALID);
  });

  test("gives a token that does not rotate itself, and cannot lengthen itself", async () => {
    const { id } = await ruleFor(one, "github", { scopes: ["sallyport.tokens.create", "a"] });
    const { body } = await exchange(one, id, await platform.jwt("github"));
    const self = one.as(body["access_token"] as string);
    const [token] = await minted(id);
    expect(await outcome(self.tokens.rotateToken({ id: token!.id }))).toBe("CALLER_FORBIDDEN");
    const later = { seconds: token!.expireTime!.seconds + 3600n, nanos: 0 };
    const change = { token: { id: token!.id, expireTime: later }, updateMask: { paths: ["expire_time"] } };
    expect(await outcome(self.tokens.updateToken(change))).toBe("RIGHTS_EXCEEDED");
  });

  test.each([
    ["another grant", { grant_type: "authorization_code" }],
    ["another type of subject", { subject_token_type: "urn:ietf:params:oauth:token-type:id_token" }],
    ["another type of token", { requested_token_type: "urn:ietf:params:oauth:token-type:refresh_token" }],
    ["an actor", { actor_token: "x" }],
    ["an audience that nobody would check", { audience: "x" }],
    ["no rule", { rule: undefined }],
    ["no subject", { subject_token: undefined }],
  ])("with %s is no valid request", async (_, more) => {
    const { status, body } = await exchange(one, "trr_0000000000000000000000", "x", more);
    expect([status, body["error"]]).toEqual([400, "invalid_request"]);
  });

  test("is asked for by a form alone, with POST", async () => {
    expect((await one.post("admin", "/v1/token", { grant_type: "x" })).status).toBe(400);
    expect((await fetch(`${one.listeners.admin}/v1/token`)).status).toBe(405);
  });

  test("holds no slot while a stranger sends its form", async () => {
    const { hostname, port } = new URL(one.listeners.admin);
    const head = `POST /v1/token HTTP/1.1\r\nhost: ${hostname}\r\ncontent-type: application/x-www-form-urlencoded\r\n`;
    const sockets = await Promise.all(
      Array.from({ length: 100 }, async () => {
        const socket = connect(Number(port), hostname);
        await once(socket, "connect");
        // Once it is sent, the server reads the form.
        await new Promise((sent) => socket.write(`${head}content-length: 100\r\n\r\ngrant_type=`, sent));
        return socket;
      }),
    );
    try {
      for (let i = 0; i < 3; i++) {
        const response = await fetch(`${one.listeners.admin}/sallyport.v1.TenantAdmin/ListTenants`, {
          method: "POST",
          headers: { "content-type": "application/json", authorization: `Bearer ${one.adminToken}` },
          body: "{}",
        });
        expect(response.status).toBe(200);
      }
    } finally {
      for (const socket of sockets) socket.destroy();
    }
  });

  test("is counted by its true outcome, each from zero", async () => {
    const before = await outcomes(one);
    const { id } = await ruleFor(one, "github");
    await exchange(one, id, await platform.jwt("github"));
    await exchange(one, id, await platform.jwt("github", { claims: { aud: "other" } }));
    await exchange(one, id, "x", { grant_type: "x" });
    const after = await outcomes(one);
    const changed = Object.fromEntries(
      Object.entries(after)
        .map(([name, count]) => [name, count - before[name]!] as const)
        .filter(([, count]) => count !== 0),
    );
    expect(changed).toEqual({ minted: 1, audience: 1, request_invalid: 1 });
    expect(before["key_unusable"]).toBe(0);
  });
});

describe("the end of a rule", () => {
  const ends: [string, (name: string) => Promise<{ revokedCount: number }>][] = [
    ["deletion", (name) => one.admin.federation.deleteTrustRule({ name })],
    [
      "disabling",
      (name) =>
        one.admin.federation.updateTrustRule({
          rule: { name, disabled: true },
          updateMask: { paths: ["disabled"] },
        }),
    ],
  ];

  test.each(ends)(
    "by %s during a storm of exchanges: none is accepted after OK, and none is minted",
    async (_, end) => {
      const { id, name } = await ruleFor(one, "kubernetes");
      const jwt = await platform.jwt("kubernetes");
      const strings: string[] = [];
      let over = false;
      let mintedAfter = 0;
      const first = Promise.withResolvers<void>();
      const worker = async (at: TestSallyport) => {
        for (let refused = 0; refused < 3; ) {
          const begun = over;
          const { status, body } = await exchange(at, id, jwt);
          if (status !== 200) {
            refused++;
            continue;
          }
          if (begun) mintedAfter++;
          strings.push(body["access_token"] as string);
          if (strings.length === 20) first.resolve();
        }
      };
      const workers = [one, two, one, two, one, two].map(worker);
      await first.promise;
      const { revokedCount } = await end(name);
      over = true;
      await Promise.all(workers);
      expect(mintedAfter).toBe(0);
      expect(strings.length).toBeGreaterThanOrEqual(20);
      expect(revokedCount).toBe(strings.length);
      for (const at of [one, two]) {
        const verdicts = await Promise.all(strings.map((string) => at.verdict(string)));
        expect(new Set(verdicts)).toEqual(new Set(["INVALID_TOKEN"]));
      }
      expect((await exchange(two, id, jwt)).body).toEqual(INVALID);
    },
  );

  test("also ends what its tokens minted, and can be repeated", async () => {
    const { id, name } = await ruleFor(one, "github", { scopes: ["sallyport.tokens.create", "a"] });
    const { body } = await exchange(one, id, await platform.jwt("github"));
    const by = one.as(body["access_token"] as string);
    await one.registered("bot:other");
    const others = await one.createToken(
      { profile: "bot", principal: "bot:other", displayName: "", scopes: ["a"] },
      by,
    );
    expect(await two.verdict(others.tokenString)).toBe("ALLOW");
    const disable = () =>
      one.admin.federation.updateTrustRule({ rule: { name, disabled: true }, updateMask: { paths: ["disabled"] } });
    expect((await disable()).revokedCount).toBe(2);
    expect(await two.verdict(others.tokenString)).toBe("INVALID_TOKEN");
    expect((await disable()).revokedCount).toBe(0);
    // Enabled again, it exchanges again; what was revoked stays so.
    await one.admin.federation.updateTrustRule({
      rule: { name, disabled: false },
      updateMask: { paths: ["disabled"] },
    });
    expect((await exchange(one, id, await platform.jwt("github"))).status).toBe(200);
    expect(await two.verdict(body["access_token"] as string)).toBe("INVALID_TOKEN");
    expect((await one.admin.federation.deleteTrustRule({ name })).revokedCount).toBe(1);
    expect((await one.admin.federation.deleteTrustRule({ name })).revokedCount).toBe(0);
  });

  /** Waits until somebody waits for an advisory lock. */
  const waiting = () =>
    expect
      .poll(() => one.sql("select from pg_locks where locktype = 'advisory' and not granted"), { timeout: 5_000 })
      .toHaveLength(1);

  test("by plain SQL: an exchange that comes before its commit waits, and then sees it", async () => {
    const { id } = await ruleFor(one, "kubernetes");
    const jwt = await platform.jwt("kubernetes");
    const client = new pg.Client(one.database.url);
    await client.connect();
    try {
      await client.query("begin");
      await client.query(
        "insert into sallyport.audit (tenant, actor, action, target) values ('default', 'sql:test', 'rule.update', 'rule:x')",
      );
      await client.query("update sallyport.trust_rules set disabled = true where id = $1", [id]);
      const answer = exchange(one, id, jwt);
      await waiting();
      await client.query("commit");
      expect((await answer).body).toEqual(INVALID);
    } finally {
      await client.end();
    }
  });

  test("waits for an exchange that is under way, and later ones wait for it", async () => {
    const { id, name } = await ruleFor(one, "kubernetes");
    const client = new pg.Client(one.database.url);
    await client.connect();
    try {
      // As an exchange does before it reads the rule.
      await client.query("begin");
      await client.query("select sallyport.lock_shared(array[sallyport.rule_key($1)])", [id]);
      const end = one.admin.federation.deleteTrustRule({ name });
      await waiting();
      // It comes after the deletion began to wait, so it queues behind it.
      const answer = exchange(two, id, await platform.jwt("kubernetes"));
      await client.query("commit");
      await end;
      expect((await answer).body).toEqual(INVALID);
    } finally {
      await client.end();
    }
  });
});

test("the audience of the rule is the JWT's", async () => {
  const { id } = await ruleFor(one, "kubernetes", { audience: "other" });
  expect((await exchange(one, id, await platform.jwt("kubernetes"))).body).toEqual(INVALID);
  const several = await platform.jwt("kubernetes", { claims: { aud: ["other", AUDIENCE] } });
  expect((await exchange(one, id, several)).status).toBe(200);
});
