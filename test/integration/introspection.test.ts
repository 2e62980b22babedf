import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { http2Asker, type RawAnswer } from "../data-plane/data-listener.ts";
import { certify, type Identity, writeFiles } from "../listen/certificates.ts";
import { FREE_PORTS } from "../support/program.ts";
import { seconds, TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy } from "../support/tcp-proxy.ts";

const PATH = "/v1/introspect";
const FORM = "application/x-www-form-urlencoded";
const NOBODY = `sp_pat_${"x".repeat(58)}`;
const INACTIVE = '{"active":false}';

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({ config: { log: { level: "trace" } } });
});
afterAll(() => sallyport?.stop());

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
}

async function post(body: string, type: string | undefined = FORM, of = sallyport, headers = {}): Promise<Answer> {
  const all = { ...(type !== "" && { "content-type": type }), ...headers };
  const answer = await fetch(`${of.listeners.data}${PATH}`, { method: "POST", headers: all, body: Buffer.from(body) });
  return { status: answer.status, headers: answer.headers, body: await answer.text() };
}

const form = (token: string, more: Record<string, string> = {}) => `${new URLSearchParams({ token, ...more })}`;

/** The forms of an introspection request. */
const FORMS: readonly (readonly [string, (token: string) => Promise<Answer>])[] = [
  ["a form", (token) => post(form(token, { token_type_hint: "access_token" }))],
  ["a form with a charset", (token) => post(form(token), `${FORM}; charset=UTF-8`)],
  ["JSON", (token) => post(JSON.stringify({ token }), "application/json")],
];

describe.each(FORMS)("introspection with %s", (_name, ask) => {
  test("a live token's claims are in the answer, and no absent ones", async () => {
    const now = Math.floor(Date.now() / 1000);
    const made = await sallyport.createToken({
      principal: "user:claims",
      scopes: ["repo:read", "repo:write"],
      audiences: ["https://api.example"],
      lifetime: { case: "ttl", value: seconds(3_600) },
    });
    const { status, headers, body } = await ask(made.tokenString);
    expect([status, headers.get("content-type"), headers.get("cache-control")]).toEqual([
      200,
      "application/json",
      "no-store",
    ]);
    const claims = JSON.parse(body) as { exp: number };
    expect(claims).toEqual({
      active: true,
      scope: "repo:read repo:write",
      sub: "user:claims",
      aud: ["https://api.example"],
      exp: expect.any(Number),
      jti: made.id,
      token_type: "Bearer",
      tenant: "default",
      profile: "pat",
    });
    expect(Math.abs(claims.exp - now - 3_600)).toBeLessThan(60);
    const secret = made.tokenString.slice(-30);
    expect(body + JSON.stringify([...headers])).not.toContain(secret);
  });

  test("a revoked token is inactive as soon as the revocation returned", async () => {
    const made = await sallyport.createToken();
    expect(JSON.parse((await ask(made.tokenString)).body)).toMatchObject({ active: true });
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: made.id } });
    expect((await ask(made.tokenString)).body).toBe(INACTIVE);
  });

  test("only a token that is not live is inactive", async () => {
    for (const token of [
      NOBODY,
      "x",
      "",
      "a b",
      "é\u0000",
      "%00",
      sallyport.adminToken.slice(0, -1),
      "x".repeat(20_000),
    ]) {
      const { status, headers, body } = await ask(token);
      expect([status, body, headers.get("cache-control")], token.slice(0, 20)).toEqual([200, INACTIVE, "no-store"]);
    }
  });
});

test("the answers about an unknown, a revoked and a disabled token are the same in every byte", async () => {
  const gone = await sallyport.createToken();
  const off = await sallyport.createToken();
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: gone.id } });
  await sallyport.admin.tokens.updateToken({
    token: { id: off.id, disabled: true },
    updateMask: { paths: ["disabled"] },
  });
  const faces = new Set<string>();
  for (const token of [NOBODY, "x", gone.tokenString, off.tokenString]) {
    const { status, headers, body } = await post(form(token));
    faces.add(JSON.stringify([status, [...headers].filter(([name]) => name !== "date"), body]));
  }
  expect([...faces]).toHaveLength(1);
});

test("a token that is bound to networks is active only for a client in one of them", async () => {
  const { tokenString } = await sallyport.createToken({ allowedCidrs: ["203.0.113.0/24"] });
  const active = async (more: Record<string, string>) => JSON.parse((await post(form(tokenString, more))).body).active;
  expect(await active({ client_address: "203.0.113.9" })).toBe(true);
  for (const more of [{ client_address: "198.51.100.1" }, { client_address: "nowhere" }, {}] as Record<
    string,
    string
  >[])
    expect(await active(more), JSON.stringify(more)).toBe(false);
});

test("a repeated or missing parameter, another type, and an unreadable body are 400 invalid_request", async () => {
  const good = form(sallyport.adminToken);
  for (const [body, type] of [
    [`${good}&${good}`, FORM],
    [`${good}&token=`, FORM],
    [`${good}&token_type_hint=a&token_type_hint=b`, FORM],
    ["", FORM],
    ["Token=x", FORM],
    ["token_type_hint=access_token", FORM],
    [good, "text/plain"],
    [good, ""],
    [good, "multipart/form-data; boundary=x"],
    [good, "application/json"],
    ["null", "application/json"],
    ["[]", "application/json"],
    ['"token"', "application/json"],
    ['{"token":1}', "application/json"],
    ['{"token":null}', "application/json"],
    ['{"token":["x"]}', "application/json"],
    ['{"__proto__":{"token":"x"}}', "application/json"],
    ['{"constructor":"x"}', "application/json"],
  ] as const) {
    const { status, headers, body: answer } = await post(body, type);
    expect([status, headers.get("cache-control")], `${type} ${body.slice(0, 40)}`).toEqual([400, "no-store"]);
    expect(JSON.parse(answer)).toMatchObject({ error: "invalid_request" });
    expect(answer).not.toContain(sallyport.adminToken.slice(-20));
  }
});

test("other methods are 405, and a token in a query is ignored", async () => {
  for (const method of ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]) {
    const url = `${sallyport.listeners.data}${PATH}?${form(sallyport.adminToken)}`;
    const answer = await fetch(url, { method });
    expect([answer.status, answer.headers.get("allow")], method).toEqual([405, "POST"]);
    const text = await answer.text();
    expect(text).not.toContain("active");
    if (method !== "HEAD")
      expect(JSON.parse(text)).toMatchObject({ error: "invalid_request", reason: "UNIMPLEMENTED" });
  }
  const both = await fetch(`${sallyport.listeners.data}${PATH}?${form(sallyport.adminToken)}`, {
    method: "POST",
    headers: { "content-type": FORM },
    body: form("x"),
  });
  expect(await both.text()).toBe(INACTIVE);
});

test("a body over 64 KiB is refused", async () => {
  const answer = await post(form("x".repeat(70_000)));
  expect(answer.status).toBe(413);
  expect(JSON.parse(answer.body)).toMatchObject({ error: "invalid_request", reason: "LIMIT_EXCEEDED" });
});

test("HTTP/2 gives the same answer", async () => {
  const asker = http2Asker(sallyport.listeners.data);
  try {
    const ask = (token: string) => asker.ask(PATH, { "content-type": FORM }, Buffer.from(form(token)));
    expect((await ask(NOBODY)).body.toString()).toBe(INACTIVE);
    expect(JSON.parse((await ask(sallyport.adminToken)).body.toString())).toMatchObject({ active: true });
  } finally {
    asker.close();
  }
});

test("an invalid credential of a trusted peer changes nothing", async () => {
  for (const authorization of ["Bearer x", "Basic eDp5", "Bearer a, Bearer b"])
    expect((await post(form(NOBODY), FORM, sallyport, { authorization })).body).toBe(INACTIVE);
});

test("no requested secret stands in the log at its most verbose level", async () => {
  const made = await sallyport.createToken();
  const odd = "sp_pat_thisIsNoTokenButMightBeOneOfSomebody";
  for (const [, ask] of FORMS) for (const token of [made.tokenString, odd]) await ask(token);
  await post(`${form(made.tokenString)}&${form(odd)}`);
  await fetch(`${sallyport.listeners.data}${PATH}?${form(odd)}`);
  const said = sallyport.program.out + sallyport.program.err;
  for (const secret of [made.tokenString.slice(-40), made.tokenString.slice(20), odd, odd.slice(10)])
    expect(said.includes(secret)).toBe(false);
});

describe("a listener that does not trust its peers", () => {
  let folder: string;
  let ca: Identity;
  let listener: TestSallyport;
  const path = (name: string) => join(folder, name);
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "sallyport-introspect-"));
    ca = certify("ca", []);
    const files = writeFiles(folder, certify("server", [{ dns: "localhost" }], ca), ca);
    const tls = {
      cert_file: files.certFile,
      key_file: files.keyFile,
      client_ca_file: path("ca.pem"),
      allowed_sans: ["spiffe://td/gateway"],
    };
    const data = { bind: "127.0.0.1:0", tls };
    const { database, keyring } = sallyport;
    listener = await TestSallyport.start({ database, keyring, config: { listeners: { ...FREE_PORTS, data } } });
  });
  afterAll(async () => {
    await listener?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const as = async (who: Identity | undefined, headers: Record<string, string> = {}): Promise<RawAnswer> => {
    const url = listener.listeners.data.replace("http:", "https:").replace("127.0.0.1", "localhost");
    const asker = http2Asker(url, { ca: ca.certPem, ...(who && { cert: who.certPem, key: who.keyPem }) });
    const body = Buffer.from(form(sallyport.adminToken));
    return asker.ask(PATH, { "content-type": FORM, ...headers }, body).finally(() => asker.close());
  };

  /** The log lines about calls with this outcome. */
  const lines = (reason: string) =>
    listener.program.out
      .split("\n")
      .filter((line) => line.includes('"method":"introspect"') && line.includes(reason))
      .map((line) => JSON.parse(line));
  const calls = async (code: string) =>
    Number(
      new RegExp(`rpc_total\\{method="introspect",code="${code}"\\} (\\d+)`).exec(
        await (await fetch(`${listener.listeners.ops}/metrics`)).text(),
      )?.[1] ?? 0,
    );

  test("a failed authentication is counted and logged, with the client's address and without the credential", async () => {
    const wrong = `sp_pat_${"q".repeat(58)}`;
    const bearer = `Bearer ${wrong}`;
    const refused = await as(undefined, { authorization: bearer, "x-request-id": "introspect-1" });
    expect(refused.status).toBe(401);
    await listener.program.until(() => lines("CALLER_UNAUTHENTICATED").length > 0, "the line was written");
    expect(lines("CALLER_UNAUTHENTICATED")).toMatchObject([
      { requestId: "introspect-1", code: "UNAUTHENTICATED", address: "127.0.0.1", msg: "call", level: "info" },
    ]);
    const weak = await sallyport.callerWith(["sallyport.tokens.read"]);
    expect((await as(undefined, { authorization: `Bearer ${weak.tokenString}` })).status).toBe(403);
    await listener.program.until(() => lines("CALLER_FORBIDDEN").length > 0, "the line was written");
    // Far more than are logged in a second: all are counted.
    const before = await calls("UNAUTHENTICATED");
    for (let i = 0; i < 30; i++) await as(undefined, { authorization: bearer });
    expect(await calls("UNAUTHENTICATED")).toBe(before + 30);
    for (const secret of [wrong.slice(8), weak.tokenString.slice(10)])
      expect(listener.program.out.includes(secret)).toBe(false);
  });

  test("requires a credential (401), then the permission (403), or an allowed certificate", async () => {
    const gateway = certify("gateway", [{ uri: "spiffe://td/gateway" }], ca);
    const bearer = async (scopes: string[]) => ({
      authorization: `Bearer ${(await sallyport.callerWith(scopes)).tokenString}`,
    });
    for (const headers of [{}, { authorization: "Bearer x" }, { authorization: `Bearer ${NOBODY}` }]) {
      const answer = await as(undefined, headers as Record<string, string>);
      expect([answer.status, answer.fields["www-authenticate"]]).toEqual([401, 'Bearer realm="sallyport"']);
      expect(answer.body.toString()).not.toContain("active");
    }
    const stranger = certify("other", [{ uri: "spiffe://td/other" }], ca);
    for (const who of [stranger, certify("nameless", [], ca)])
      await expect(as(who, await bearer(["sallyport.validate"]))).rejects.toThrow();
    const lacking = await as(undefined, await bearer(["sallyport.tokens.read"]));
    expect([lacking.status, JSON.parse(lacking.body.toString()).error]).toEqual([403, "insufficient_scope"]);
    for (const [who, headers] of [
      [undefined, await bearer(["sallyport.validate"])],
      [gateway, {}],
    ] as const) {
      const answer = await as(who, headers);
      expect([answer.status, JSON.parse(answer.body.toString()).active]).toEqual([200, true]);
    }
  });
});

test("a token that cannot be judged is 503 with retry-after, never active or inactive", async () => {
  const behind = new URL(sallyport.database.url);
  const proxy = await startTcpProxy({ host: behind.hostname, port: Number(behind.port) });
  behind.host = `127.0.0.1:${proxy.port}`;
  const database = { ...sallyport.database, url: behind.href };
  const cut = await TestSallyport.start({ database, keyring: sallyport.keyring });
  try {
    const { tokenString } = await sallyport.createToken();
    await proxy.set({ kind: "blackhole" });
    const { status, headers, body } = await post(form(tokenString), FORM, cut);
    expect([status, headers.get("retry-after"), headers.get("cache-control")]).toEqual([503, "1", "no-store"]);
    expect(JSON.parse(body)).toMatchObject({ error: "temporarily_unavailable" });
    expect((await post(form("x"), FORM, cut)).body).toBe(INACTIVE); // no look-up is needed to say so
  } finally {
    await proxy.set({ kind: "pass" });
    await cut.stop();
    await proxy.stop();
  }
});
