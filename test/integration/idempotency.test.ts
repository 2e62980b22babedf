import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import { failure, outcome, seconds, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
  await sallyport.registered("bot:ci");
});
afterAll(() => sallyport?.stop());

const count = async (where: string, values: unknown[] = []) =>
  (await sallyport.sql<{ n: number }>(`select count(*)::int as n from sallyport.${where}`, values))[0]!.n;

test("the same request_id and body get the same answer, string included, over every protocol, and create one token", async () => {
  const request = {
    principal: "user:once",
    scopes: ["a", "b"],
    annotations: { z: "1", a: "2", m: "3" },
    requestId: randomUUID(),
  };
  const answers = [];
  for (const protocol of ["connect", "grpc", "grpc-web", "connect-json"] as const) {
    answers.push(await sallyport.createToken(request, sallyport.as(sallyport.adminToken, protocol)));
  }
  answers.push(await sallyport.createToken({ ...request, annotations: { m: "3", a: "2", z: "1" } }));
  expect(new Set(answers.map(({ tokenString }) => tokenString)).size).toBe(1);
  expect(new Set(answers.map(({ id }) => id)).size).toBe(1);
  expect(await count("tokens where principal = 'user:once'")).toBe(1);
  // A repeat commits a row of its own. Without one it would not wait for a standby.
  expect(await count("audit where owner = 'user:once' and metadata->>'repeat' is null")).toBe(1);
  expect(await count("audit where owner = 'user:once' and metadata->>'repeat' = 'true'")).toBe(answers.length - 1);
  expect(await sallyport.verdict(answers[0]!.tokenString)).toBe("ALLOW");
});

test("twenty calls at once with the same request_id create one token, too", async () => {
  const request = { principal: "user:race", requestId: randomUUID() };
  const answers = await Promise.all(Array.from({ length: 20 }, () => sallyport.createToken(request)));
  expect(new Set(answers.map(({ tokenString }) => tokenString)).size).toBe(1);
  expect(await count("tokens where principal = 'user:race'")).toBe(1);
});

test("the same request_id with another body, or for another method, is REQUEST_ID_REUSED, whatever its letter case", async () => {
  const requestId = randomUUID();
  const { id } = await sallyport.createToken({ requestId });
  for (const change of [
    { displayName: "other" },
    { scopes: ["x"] },
    { principal: "user:bob" },
    { lifetime: { case: "ttl" as const, value: seconds(5) } },
  ]) {
    expect(await failure(sallyport.createToken({ requestId: requestId.toUpperCase(), ...change }))).toMatchObject({
      code: "AlreadyExists",
      reason: "REQUEST_ID_REUSED",
    });
  }
  expect(await outcome(sallyport.admin.tokens.rotateToken({ id, requestId }))).toBe("REQUEST_ID_REUSED");
});

test("a request_id belongs to its caller: another caller's request with the same one is independent", async () => {
  const requestId = randomUUID();
  const mine = await sallyport.createToken({ requestId });
  const other = sallyport.as((await sallyport.callerWith(["sallyport.admin"])).tokenString);
  const theirs = await sallyport.createToken({ requestId }, other);
  expect(theirs.id).not.toBe(mine.id);
  expect(theirs.tokenString).not.toBe(mine.tokenString);
});

test("a request_id that is no UUID is refused by name; a refused request leaves it free", async () => {
  for (const requestId of ["1", "not-a-uuid", `${randomUUID()}`.slice(1)]) {
    expect((await failure(sallyport.createToken({ requestId }))).violations[0]?.field).toBe("request_id");
  }
  const requestId = randomUUID();
  expect(await outcome(sallyport.createToken({ requestId, profile: "bot", principal: "bot:none" }))).toBe(
    "PRINCIPAL_NOT_FOUND",
  );
  expect(await outcome(sallyport.createToken({ requestId }))).toBe("OK");
});

test("after ten minutes the salt is gone: the id is free again, and creates another string", async () => {
  const request = { requestId: randomUUID(), principal: "user:later" };
  const first = await sallyport.createToken(request);
  await sallyport.sql("update sallyport.requests set at = at - interval '11 min'");
  const second = await sallyport.createToken(request);
  expect(second.tokenString).not.toBe(first.tokenString);
  expect(await count("tokens where principal = 'user:later'")).toBe(2);
});

test("a rotation that is repeated gives the same string, and rotates once", async () => {
  const old = await sallyport.createToken({ profile: "bot", principal: "bot:ci" });
  const request = { id: old.id, requestId: randomUUID(), overlap: seconds(60), noWait: true };
  const first = await sallyport.admin.tokens.rotateToken(request);
  const again = await sallyport.admin.tokens.rotateToken(request);
  expect(again.tokenString).toBe(first.tokenString);
  expect(again.token?.id).toBe(first.token?.id);
  expect(again.previous?.id).toBe(old.id);
  expect(await count("tokens where rotated_from = $1", [old.id])).toBe(1);
  expect(await outcome(sallyport.admin.tokens.rotateToken({ ...request, overlap: seconds(61) }))).toBe(
    "REQUEST_ID_REUSED",
  );
  expect(await failure(sallyport.admin.tokens.rotateToken({ id: old.id }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "TOKEN_ROTATED",
    metadata: { rotated_to: first.token?.id },
  });
});

test("a revocation that is repeated is OK, keeps the first time, reason and revoker, and is audited each time", async () => {
  const { id } = await sallyport.createToken();
  const target = { case: "id" as const, value: id };
  const first = await sallyport.admin.tokens.revokeToken({ target, reason: "first" });
  const again = await sallyport.admin.tokens.revokeToken({ target, reason: "second" });
  expect(again.token?.revokeTime).toEqual(first.token?.revokeTime);
  expect(again.token?.revokeReason).toBe("first");
  expect(await count("audit where target = $1 and action = 'token.revoke'", [`token:${id}`])).toBe(2);
});

test("revoked is final: no update, no rotation brings a token back", async () => {
  const { id, tokenString } = await sallyport.createToken();
  await sallyport.admin.tokens.revokeToken({ target: { case: "tokenString", value: tokenString } });
  const update = (paths: string[]) =>
    outcome(sallyport.admin.tokens.updateToken({ token: { id, disabled: false }, updateMask: { paths } }));
  expect(await update(["disabled"])).toBe("TOKEN_REVOKED");
  expect(await update(["expire_time"])).toBe("TOKEN_REVOKED");
  expect(await outcome(sallyport.admin.tokens.rotateToken({ id }))).toBe("TOKEN_REVOKED");
  await expect(sallyport.sql("update sallyport.tokens set revoke_time = null where id = $1", [id])).rejects.toThrow(
    "stays revoked",
  );
});
