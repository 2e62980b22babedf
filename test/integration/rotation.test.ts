import { randomUUID } from "node:crypto";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { failure, outcome, seconds, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({ config: { profiles: { svc: { on_reuse: "revoke-family" } } } });
  for (const name of ["bot:ci", "service:api"]) await sallyport.registered(name);
});
afterAll(() => sallyport?.stop());

const bot = (more = {}) => sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "", ...more });
const reuses = async (id: string) =>
  (await sallyport.admin.audit.listAuditEvents({ action: "token.reuse", target: `token:${id}` })).events;

test("without an overlap the old string is dead at the answer, and the new one has the same rights and a new secret", async () => {
  const old = await bot({
    scopes: ["repo:read"],
    audiences: ["https://a.example"],
    allowedCidrs: ["10.0.0.0/8"],
    annotations: { team: "x" },
    description: "d",
  });
  const { token, tokenString, previous, effect } = await sallyport.admin.tokens.rotateToken({ id: old.id });
  expect([1, 2]).toContain(effect?.mode);
  expect(token).toMatchObject({
    principal: "bot:ci",
    profile: "bot",
    scopes: ["repo:read"],
    audiences: ["https://a.example"],
    allowedCidrs: ["10.0.0.0/8"],
    annotations: { team: "x" },
    description: "d",
    rotatedFrom: old.id,
    createdBy: expect.stringMatching(/^token:sp_adm_/),
  });
  expect(previous).toMatchObject({ id: old.id, rotatedTo: token?.id, revokeReason: "rotated", state: 5 });
  // Not by time alone: a clock that is set back revives nothing.
  expect(timestampMs(previous!.revokeTime!)).toBe(timestampMs(previous!.expireTime!));
  expect(tokenString).not.toBe(old.tokenString);
  expect(await sallyport.verdict(old.tokenString)).toBe("INVALID_TOKEN");
  const context = { clientAddress: "10.1.2.3" };
  expect(await sallyport.verdict(tokenString, { audience: "https://a.example", context })).toBe("ALLOW");
});

test("with an overlap the old string works until its end, then never: no update revives it", async () => {
  const old = await bot();
  const { tokenString, previous } = await sallyport.admin.tokens.rotateToken({ id: old.id, overlap: seconds(2) });
  const end = timestampMs(previous!.expireTime!);
  expect(await sallyport.verdict(old.tokenString)).toBe("ALLOW");
  expect(
    await failure(
      sallyport.admin.tokens.updateToken({ token: { id: old.id }, updateMask: { paths: ["expire_time"] } }),
    ),
  ).toMatchObject({ reason: "TOKEN_ROTATED" });
  await expect.poll(() => sallyport.verdict(old.tokenString), { timeout: 5000, interval: 20 }).toBe("INVALID_TOKEN");
  expect(Date.now()).toBeGreaterThan(end - 100);
  expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
});

test("an overlap never makes the old token live longer than it would have", async () => {
  const old = await bot({ lifetime: { case: "ttl", value: seconds(30) } });
  const { previous } = await sallyport.admin.tokens.rotateToken({
    id: old.id,
    overlap: seconds(604_800),
    noWait: true,
  });
  expect(timestampMs(previous!.expireTime!)).toBe(timestampMs(old.token.expireTime!));
});

test("an overlap is 0 to 7 days: -1 s, 7 days and 1 s, and the largest int64 are refused by name", async () => {
  const old = await bot();
  for (const value of [seconds(-1), seconds(604_801), seconds(9_223_372_036_854_775_807n)]) {
    expect(await failure(sallyport.admin.tokens.rotateToken({ id: old.id, overlap: value }))).toMatchObject({
      code: "InvalidArgument",
      violations: [{ field: "overlap" }],
    });
  }
});

test("the new token has the lifetime of the old one, or the requested one within the profile's bounds", async () => {
  const life = async (made: object, asked: object) => {
    const old = await bot(made);
    const { token } = await sallyport.admin.tokens.rotateToken({ id: old.id, noWait: true, ...asked });
    return token?.expireTime && (timestampMs(token.expireTime) - timestampMs(token.createTime!)) / 1000;
  };
  const ttl = (n: number) => ({ lifetime: { case: "ttl" as const, value: seconds(n) } });
  const never = { lifetime: { case: "noExpiry" as const, value: true } };
  expect(await life(ttl(1234), {})).toBe(1234);
  expect(await life(never, {})).toBeUndefined();
  expect(await life(ttl(1234), ttl(99))).toBe(99);
  expect(await life(ttl(1234), never)).toBeUndefined();
  // A ceiling counts from the creation of the first.
  const clamped = await life({ scopes: ["bootstrap"] }, never);
  expect(clamped).toBeGreaterThan(3500);
  expect(clamped).toBeLessThan(3600);
  const old = await bot();
  expect(
    (await failure(sallyport.admin.tokens.rotateToken({ id: old.id, ...ttl(3650 * 86_400 + 1) }))).violations[0]?.field,
  ).toBe("ttl");
});

test("of two rotations at once one succeeds, and the other gets the id of the successor", async () => {
  const old = await bot();
  const ends = await Promise.all(
    Array.from({ length: 6 }, () => outcome(sallyport.admin.tokens.rotateToken({ id: old.id, noWait: true }))),
  );
  expect(ends.sort()).toEqual(["OK", ...Array.from({ length: 5 }, () => "TOKEN_ROTATED")]);
});

test("a disabled token is not rotated: its successor would be live", async () => {
  const { id } = await bot();
  await sallyport.admin.tokens.updateToken({
    token: { id, disabled: true },
    updateMask: { paths: ["disabled"] },
    noWait: true,
  });
  expect(await outcome(sallyport.admin.tokens.rotateToken({ id }))).toBe("TOKEN_DISABLED");
});

test("revoking one of a family leaves the others alone; with `family` all of them end", async () => {
  const first = await bot();
  const second = await sallyport.admin.tokens.rotateToken({ id: first.id, overlap: seconds(600), noWait: true });
  const third = await sallyport.admin.tokens.rotateToken({ id: second.token!.id, overlap: seconds(600), noWait: true });
  const verdicts = () => Promise.all([first, second, third].map(({ tokenString }) => sallyport.verdict(tokenString)));
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: second.token!.id } });
  expect(await verdicts()).toEqual(["ALLOW", "INVALID_TOKEN", "ALLOW"]);
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: second.token!.id }, family: true });
  expect(await verdicts()).toEqual(["INVALID_TOKEN", "INVALID_TOKEN", "INVALID_TOKEN"]);
});

test("the use of a string after its rotation ended it is audited, and counted; a use during the overlap is not", async () => {
  const old = await bot();
  await sallyport.admin.tokens.rotateToken({ id: old.id, overlap: seconds(1), noWait: true });
  expect(await sallyport.verdict(old.tokenString)).toBe("ALLOW");
  expect(await reuses(old.id)).toEqual([]);
  await expect.poll(() => sallyport.verdict(old.tokenString), { timeout: 5000, interval: 20 }).toBe("INVALID_TOKEN");
  await expect
    .poll(() => reuses(old.id))
    .toMatchObject([
      {
        actor: "sallyport",
        owner: "bot:ci",
        outcome: 2,
        metadata: { uses: "1", rotated_to: expect.stringMatching(/^tok_/) },
      },
    ]);
  const metrics = await (await fetch(`${sallyport.listeners.ops}/metrics`)).text();
  expect(metrics).toMatch(/^sallyport_token_reuses_total [1-9]/m);
});

test("a reuse ends the whole family if the profile says so", async () => {
  const old = await sallyport.createToken({ profile: "svc", principal: "service:api", displayName: "" });
  const fresh = await sallyport.admin.tokens.rotateToken({ id: old.id });
  expect(await sallyport.verdict(fresh.tokenString)).toBe("ALLOW");
  expect(await sallyport.verdict(old.tokenString)).toBe("INVALID_TOKEN");
  await expect.poll(() => sallyport.verdict(fresh.tokenString), { timeout: 5000 }).toBe("INVALID_TOKEN");
  const [event] = (
    await sallyport.admin.audit.listAuditEvents({ action: "token.revoke", target: `token:${fresh.token!.id}` })
  ).events;
  expect(event).toMatchObject({ actor: "sallyport", metadata: { family: "true" } });
});

test("a token that rotated itself and lost the answer gets it again, for that request_id only, and it is no reuse", async () => {
  const old = await sallyport.createToken({ profile: "svc", principal: "service:api", displayName: "" });
  const sibling = await sallyport.createToken({ profile: "svc", principal: "service:api", displayName: "" });
  const self = sallyport.as(old.tokenString).tokens;
  const request = { id: old.id, requestId: randomUUID() };
  const first = await self.rotateToken(request);
  expect(await sallyport.verdict(first.tokenString)).toBe("ALLOW");
  for (const protocol of ["connect", "grpc", "connect-json"] as const) {
    const again = await sallyport.as(old.tokenString, protocol).tokens.rotateToken(request);
    expect(again.tokenString).toBe(first.tokenString);
    expect(again).toMatchObject({ token: { id: first.token!.id }, previous: { id: old.id, state: 5 } });
  }
  expect(await reuses(old.id)).toEqual([]);
  expect(await sallyport.verdict(first.tokenString)).toBe("ALLOW");
  // Nothing else is open to it; each try is the use of a dead string.
  expect(await outcome(self.getToken({ id: old.id }))).toBe("CALLER_UNAUTHENTICATED");
  await expect.poll(() => sallyport.verdict(first.tokenString), { timeout: 5000 }).toBe("INVALID_TOKEN");
  expect(await outcome(self.rotateToken(request))).toBe("CALLER_UNAUTHENTICATED");
  expect(await sallyport.verdict(sibling.tokenString)).toBe("ALLOW");
});

test("such a repeat is refused with another id, request_id or body, after ten minutes, and if its principal is disabled", async () => {
  const name = await sallyport.registered("bot:lost");
  const made = () => sallyport.createToken({ profile: "bot", principal: name, displayName: "" });
  const [old, other] = [await made(), await made()];
  const self = sallyport.as(old.tokenString).tokens;
  const request = { id: old.id, requestId: randomUUID() };
  const first = await self.rotateToken(request);
  for (const wrong of [
    { id: old.id },
    { ...request, requestId: randomUUID() },
    { ...request, id: other.id },
    { ...request, id: first.token!.id },
    { ...request, overlap: seconds(60) },
  ]) {
    expect(
      await outcome(self.rotateToken(wrong)),
      JSON.stringify(wrong, (_, v) => String(v)),
    ).toBe("CALLER_UNAUTHENTICATED");
  }
  await expect.poll(() => reuses(old.id)).not.toEqual([]);
  const state = (to: 1 | 2) =>
    sallyport.admin.principals.updatePrincipal({ principal: { name, state: to }, updateMask: { paths: ["state"] } });
  await state(2);
  expect(await outcome(self.rotateToken(request))).toBe("CALLER_UNAUTHENTICATED");
  await state(1);
  expect((await self.rotateToken(request)).tokenString).toBe(first.tokenString);
  await sallyport.sql("update sallyport.requests set at = at - interval '11 min'");
  expect(await outcome(self.rotateToken(request))).toBe("CALLER_UNAUTHENTICATED");
  expect(await sallyport.verdict(first.tokenString)).toBe("ALLOW");
});

test("such a repeat from outside of the parent's networks is refused, as every use of a child is", async () => {
  const parent = await sallyport.createToken({
    profile: "bot",
    principal: "bot:ci",
    displayName: "",
    scopes: ["sallyport.tokens.create"],
  });
  const as = sallyport.as(parent.tokenString);
  const old = await sallyport.createToken({ profile: "bot", principal: "bot:ci", displayName: "" }, as);
  expect(old.token).toMatchObject({ parent: parent.id, allowedCidrs: [] });
  const self = sallyport.as(old.tokenString).tokens;
  const request = { id: old.id, requestId: randomUUID() };
  const first = await self.rotateToken(request);
  expect((await self.rotateToken(request)).tokenString).toBe(first.tokenString);
  const bind = (allowedCidrs: string[]) =>
    sallyport.admin.tokens.updateToken({
      token: { id: parent.id, allowedCidrs },
      updateMask: { paths: ["allowed_cidrs"] },
    });
  await bind(["192.0.2.0/24"]);
  expect(await outcome(sallyport.as(first.tokenString).tokens.getToken({ id: old.id }))).toBe("CALLER_UNAUTHENTICATED");
  expect(await outcome(self.rotateToken(request))).toBe("CALLER_UNAUTHENTICATED");
  await bind(["127.0.0.0/8"]);
  expect((await self.rotateToken(request)).tokenString).toBe(first.tokenString);
});

test("a rotated string that another reason refuses is no reuse, and repeats nothing: its overlap is not over", async () => {
  await sallyport.registered("service:off");
  const old = await sallyport.createToken({ profile: "svc", principal: "service:off", displayName: "" });
  const self = sallyport.as(old.tokenString).tokens;
  const request = { id: old.id, requestId: randomUUID(), overlap: seconds(600) };
  const fresh = await self.rotateToken(request);
  const state = (to: 1 | 2) =>
    sallyport.admin.principals.updatePrincipal({
      principal: { name: "service:off", state: to },
      updateMask: { paths: ["state"] },
    });
  await state(2);
  expect(await outcome(self.rotateToken({ id: old.id, requestId: randomUUID() }))).toBe("CALLER_UNAUTHENTICATED");
  expect(await outcome(self.rotateToken(request))).toBe("CALLER_UNAUTHENTICATED");
  await state(1);
  // One that is a reuse, and that is told after those.
  const other = await bot();
  await sallyport.admin.tokens.rotateToken({ id: other.id });
  expect(await outcome(sallyport.as(other.tokenString).tokens.rotateToken({ id: other.id }))).toBe(
    "CALLER_UNAUTHENTICATED",
  );
  await expect.poll(() => reuses(other.id), { timeout: 10_000 }).not.toEqual([]);
  // A reuse would have ended the whole family.
  expect(await sallyport.verdict(fresh.tokenString)).toBe("ALLOW");
  expect(await sallyport.verdict(old.tokenString)).toBe("ALLOW");
  expect(await reuses(old.id)).toEqual([]);
});
