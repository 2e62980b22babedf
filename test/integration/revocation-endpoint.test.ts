import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TestSallyport } from "../support/sallyport.ts";

const PATH = "/v1/revoke";
const FORM = "application/x-www-form-urlencoded";
const NOBODY = `sp_pat_${"x".repeat(58)}`;

let sallyport: TestSallyport;
let other: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({ config: { log: { level: "trace" } } });
  other = await TestSallyport.start({ database: sallyport.database, keyring: sallyport.keyring });
  await sallyport.admin.tenants.createTenant({ tenant: { id: "acme" } });
});
afterAll(async () => {
  await other?.stop();
  await sallyport?.stop();
});

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
}

async function revoke(by: string | undefined, body: string, type = FORM): Promise<Answer> {
  const answer = await fetch(`${sallyport.listeners.admin}${PATH}`, {
    method: "POST",
    headers: {
      ...(type !== "" && { "content-type": type }),
      ...(by !== undefined && { authorization: `Bearer ${by}` }),
    },
    body: Buffer.from(body),
  });
  return { status: answer.status, headers: answer.headers, body: await answer.text() };
}

const form = (token: string) => `${new URLSearchParams({ token, token_type_hint: "access_token" })}`;

/** The number of revocations of a token in the audit log. */
async function audited(): Promise<number> {
  const { events } = await sallyport.admin.audit.listAuditEvents({ action: "token.revoke", pageSize: 500 });
  return events.length;
}

/** OK, in the form of RFC 7009 §2.2. */
const DONE = [200, "", "no-store"];
const said = ({ status, headers, body }: Answer) => [status, body, headers.get("cache-control")];

const WRITTEN: readonly (readonly [string, (token: string) => readonly [body: string, type: string]])[] = [
  ["a form", (token) => [form(token), FORM]],
  ["JSON", (token) => [JSON.stringify({ token }), "application/json; charset=utf-8"]],
];

describe.each(WRITTEN)("with %s", (_name, written) => {
  test("a token is revoked by its own bearer, and the audit names it", async () => {
    const { tokenString, id } = await sallyport.createToken();
    const before = await audited();
    expect(said(await revoke(tokenString, ...written(tokenString)))).toEqual(DONE);
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    const { events } = await sallyport.admin.audit.listAuditEvents({ action: "token.revoke" });
    expect(events[0]).toMatchObject({ target: `token:${id}` });
    expect(events[0]?.actor).toMatch(/^token:sp_pat_/);
    expect(await audited()).toBe(before + 1);
    // Its bearer is no caller now.
    expect((await revoke(tokenString, ...written(tokenString))).status).toBe(401);
  });

  test("an operator revokes any token, and a second time changes nothing", async () => {
    const { tokenString } = await sallyport.createToken({ tenant: "acme" });
    expect(said(await revoke(sallyport.adminToken, ...written(tokenString)))).toEqual(DONE);
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    expect(said(await revoke(sallyport.adminToken, ...written(tokenString)))).toEqual(DONE);
  });
});

describe("an OAuth client that authenticates", () => {
  const ask = async (headers: Record<string, string>, body: Record<string, string>) => {
    const answer = await fetch(`${sallyport.listeners.admin}${PATH}`, {
      method: "POST",
      headers: { "content-type": FORM, ...headers },
      body: `${new URLSearchParams(body)}`,
    });
    return answer.status;
  };
  const basic = (secret: string) => ({
    authorization: `Basic ${Buffer.from(`client%3A1:${encodeURIComponent(secret)}`).toString("base64")}`,
  });
  const ways: [string, (secret: string, token: string) => Promise<number>][] = [
    ["by client_secret_basic", (secret, token) => ask(basic(secret), { token })],
    ["by client_secret_post", (secret, token) => ask({}, { token, client_id: "client", client_secret: secret })],
  ];

  test.each(ways)("%s revokes if its secret is a token with the permission", async (_, by) => {
    const { tokenString } = await sallyport.createToken();
    expect(await by(NOBODY, tokenString)).toBe(401);
    expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
    expect(await by(sallyport.adminToken, tokenString)).toBe(200);
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
  });
});

test("a string of another principal, another tenant or nobody gets the answer of a revoked one, and changes nothing", async () => {
  const mine = await sallyport.createToken({ principal: "user:mine" });
  const theirs = await sallyport.createToken({ principal: "user:theirs" });
  const foreign = await sallyport.createToken({ tenant: "acme", principal: "user:mine" });
  const revoker = await sallyport.callerWith(["sallyport.tokens.revoke"]);
  const acme = await sallyport.callerWith(["sallyport.tokens.revoke"], { tenant: "acme" });
  const before = await audited();
  for (const [by, token] of [
    [mine.tokenString, theirs.tokenString],
    [mine.tokenString, foreign.tokenString],
    [mine.tokenString, sallyport.adminToken],
    [revoker.tokenString, foreign.tokenString],
    [acme.tokenString, theirs.tokenString],
    ...[NOBODY, "x", "é", "a b", "\u0000", "x".repeat(10_000), ""].map((token) => [sallyport.adminToken, token]),
  ] as const)
    expect(said(await revoke(by, form(token!))), token!.slice(0, 20)).toEqual(DONE);
  for (const { tokenString } of [mine, theirs, foreign]) expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  expect(await sallyport.verdict(sallyport.adminToken)).toBe("ALLOW");
  expect(await audited()).toBe(before);
  // A caller with the permission in the token's own tenant does revoke it.
  expect(said(await revoke(revoker.tokenString, form(theirs.tokenString)))).toEqual(DONE);
  expect(said(await revoke(acme.tokenString, form(foreign.tokenString)))).toEqual(DONE);
  for (const { tokenString } of [theirs, foreign]) expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
});

test("the log shows it as the RPC that does the same, with caller and outcome", async () => {
  const { tokenString, token } = await sallyport.createToken();
  const from = sallyport.program.out.length;
  await revoke(tokenString, form(tokenString));
  await revoke(NOBODY, form(tokenString));
  const lines = () =>
    sallyport.program.out
      .slice(from)
      .split("\n")
      .filter((line) => line.includes("sallyport.v1.TokenAdmin/RevokeToken"));
  await expect.poll(lines).toHaveLength(2);
  const [done, refused] = lines().map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(done).toMatchObject({ code: "OK", actor: `token:${token.hint}`, level: "info" });
  expect(refused).toMatchObject({ code: "UNAUTHENTICATED", reason: "CALLER_UNAUTHENTICATED" });
});

test("without a valid credential it is 401 with a challenge, and nothing changes", async () => {
  const { tokenString } = await sallyport.createToken();
  for (const by of [undefined, "x", NOBODY, `${tokenString}, Bearer ${tokenString}`]) {
    const { status, headers, body } = await revoke(by, form(tokenString));
    expect([status, headers.get("www-authenticate")]).toEqual([401, 'Bearer realm="sallyport"']);
    expect(JSON.parse(body)).toMatchObject({ error: "invalid_client" });
  }
  expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
});

test("a repeated or missing parameter, another type, no body and too large a body are 400 invalid_request, and nothing changes", async () => {
  const { tokenString } = await sallyport.createToken();
  const good = form(tokenString);
  for (const [body, type] of [
    [`${good}&token=${tokenString}`, FORM],
    [`${good}&token_type_hint=x`, FORM],
    ["", FORM],
    ["", ""],
    ["token_type_hint=access_token", FORM],
    [good, ""],
    [good, "text/plain"],
    [good, "application/json"],
    ["null", "application/json"],
    [`{"token":["${tokenString}"]}`, "application/json"],
    [`${good}&pad=${"x".repeat(70_000)}`, FORM],
  ] as const) {
    const answer = await revoke(sallyport.adminToken, body, type);
    expect(answer.status, `${type} ${body.slice(0, 30)}`).toBe(400);
    expect(JSON.parse(answer.body)).toMatchObject({ error: "invalid_request" });
  }
  expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
});

test.each([
  ["a little too large leaves the connection as it was", 200_000, ["HTTP/1.1 400", "HTTP/1.1 200"]],
  ["far too large ends the connection, and nothing after it is answered", 3_000_000, ["HTTP/1.1 400"]],
])("a body that is %s", async (_what, length, expected) => {
  const { port } = new URL(sallyport.listeners.admin);
  const socket = connect(Number(port), "127.0.0.1");
  let seen = "";
  const ended = new Promise((resolve) => socket.once("close", resolve));
  socket.on("error", () => {});
  socket.on("data", (bytes: Buffer) => {
    seen += bytes.toString();
    if (seen.split("HTTP/1.1 ").length > 2) socket.end();
  });
  const common = `host: localhost\r\nauthorization: Bearer ${sallyport.adminToken}\r\ncontent-type: ${FORM}\r\n`;
  socket.write(`POST ${PATH} HTTP/1.1\r\n${common}content-length: ${length}\r\n\r\n`);
  for (let sent = 0; sent < length; sent += 100_000) socket.write("x".repeat(100_000));
  socket.write(`POST ${PATH} HTTP/1.1\r\n${common}content-length: ${form("x").length}\r\n\r\n${form("x")}`);
  await ended;
  // If the connection ends while the client still sends, its own system may drop the answer.
  const answers = seen.match(/HTTP\/1\.1 \d+/g) ?? (expected.length === 1 ? expected : []);
  expect(answers).toEqual(expected);
});

test("other methods are 405, and a token in the query is ignored", async () => {
  const { tokenString } = await sallyport.createToken();
  const headers = { authorization: `Bearer ${sallyport.adminToken}` };
  const url = `${sallyport.listeners.admin}${PATH}?${form(tokenString)}`;
  for (const method of ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"]) {
    const answer = await fetch(url, { method, headers });
    expect([answer.status, answer.headers.get("allow")], method).toEqual([405, "POST"]);
    await answer.arrayBuffer();
  }
  const posted = await fetch(url, { method: "POST", headers: { ...headers, "content-type": FORM }, body: "" });
  expect(posted.status).toBe(400);
  expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
});

test("it waits like RevokeToken: no instance accepts the token after the answer", async () => {
  const cached = await sallyport.createToken();
  expect(await other.verdict(cached.tokenString)).toBe("ALLOW");
  expect(said(await revoke(sallyport.adminToken, form(cached.tokenString)))).toEqual(DONE);
  expect(await other.verdict(cached.tokenString)).toBe("INVALID_TOKEN");

  // A stopped instance holds the answer back until its lease is over.
  const held = await sallyport.createToken();
  expect(await other.verdict(held.tokenString)).toBe("ALLOW");
  other.program.kill("SIGSTOP");
  let late: number;
  try {
    const start = performance.now();
    expect(said(await revoke(sallyport.adminToken, form(held.tokenString)))).toEqual(DONE);
    late = performance.now() - start;
  } finally {
    other.program.kill("SIGCONT");
  }
  expect(late).toBeGreaterThan(500);
  expect(await other.verdict(held.tokenString)).not.toBe("ALLOW");
});

test("a client that disconnects while it sends does not harm the listener", async () => {
  const { port } = new URL(sallyport.listeners.admin);
  const socket = connect(Number(port), "127.0.0.1");
  const head = `POST ${PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${sallyport.adminToken}\r\n`;
  await new Promise<void>((sent) =>
    socket.write(`${head}content-type: ${FORM}\r\ncontent-length: 100\r\n\r\ntoken=`, () => sent()),
  );
  socket.resetAndDestroy();
  expect(said(await revoke(sallyport.adminToken, form("x")))).toEqual(DONE);
  expect(sallyport.program.child.exitCode).toBe(null);
});

test("no token string stands in the log", async () => {
  const { tokenString } = await sallyport.createToken();
  const odd = "sp_pat_thisIsNoTokenButMightBeOneOfSomebody";
  await revoke(sallyport.adminToken, form(odd));
  await revoke(sallyport.adminToken, form(tokenString));
  const out = sallyport.program.out + sallyport.program.err;
  for (const secret of [odd, tokenString.slice(-40), sallyport.adminToken.slice(-40)])
    expect(out.includes(secret)).toBe(false);
});
