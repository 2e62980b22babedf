import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { AdminClients } from "../support/sallyport.ts";
import { outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
});
afterAll(() => sallyport?.stop());

/** A bot without any permission, with two tokens: the calling one, and another. */
interface Bot {
  readonly principal: string;
  readonly by: AdminClients;
  readonly id: string;
  readonly other: string;
}

let bots = 0;
async function bot(): Promise<Bot> {
  const principal = `bot:b${++bots}`;
  await sallyport.registered(principal);
  const make = () => sallyport.createToken({ profile: "bot", principal, displayName: "" });
  const [own, other] = [await make(), await make()];
  return { principal, by: sallyport.as(own.tokenString), id: own.id, other: other.id };
}

const byId = (value: string) => ({ target: { case: "id" as const, value } });
const hour = { seconds: 3600n, nanos: 0 };
const UNKNOWN = `tok_${"0".repeat(22)}`;

interface Row {
  readonly action: string;
  readonly outcome: string;
  readonly metadata: Record<string, string>;
}
const rowsOf = (principal: string) =>
  sallyport.sql<Row>(
    `select action, outcome, metadata from sallyport.audit
     where (owner = $1 or actor in (select 'token:' || hint from sallyport.tokens where principal = $1))
       and action in ('token.revoke', 'tokens.revoke', 'token.rotate') order by seq`,
    [principal],
  );

/** Each call that a token may make for itself: the first call, then its repeats. */
type Repeat = (of: Bot) => Promise<{ readonly answer: string; readonly call: () => Promise<unknown> }>;
const REPEATS: Record<string, Repeat> = {
  RevokeToken: async ({ by, other }) => {
    const call = () => by.tokens.revokeToken({ ...byId(other), noWait: true });
    await call();
    return { answer: "OK", call };
  },
  "RevokeToken of a family": async ({ by, other }) => {
    const call = () => by.tokens.revokeToken({ ...byId(other), family: true, noWait: true });
    await call();
    return { answer: "OK", call };
  },
  "RevokeTokens of an unknown id": async ({ by }) => ({
    answer: "OK",
    call: () => by.tokens.revokeTokens({ ids: [UNKNOWN], noWait: true }),
  }),
  "RevokeTokens of a revoked one": async ({ by, other }) => {
    const call = () => by.tokens.revokeTokens({ ids: [other], noWait: true });
    await call();
    return { answer: "OK", call };
  },
  "RotateToken within its overlap": async ({ by, id }) => {
    const call = () => by.tokens.rotateToken({ id, overlap: hour, noWait: true });
    await call();
    return { answer: "TOKEN_ROTATED", call };
  },
  "RotateToken with ever another request_id": async ({ by, id }) => {
    const call = () => by.tokens.rotateToken({ id, overlap: hour, noWait: true, requestId: randomUUID() });
    await call();
    return { answer: "TOKEN_ROTATED", call };
  },
  "RotateToken with the same request_id": async ({ by, id }) => {
    const request = { id, overlap: hour, noWait: true, requestId: randomUUID() };
    const call = () => by.tokens.rotateToken(request);
    await call();
    return { answer: "OK", call };
  },
  "RotateToken with the same request_id, by the string that it ended": async ({ by, id }) => {
    const request = { id, noWait: true, requestId: randomUUID() };
    const call = () => by.tokens.rotateToken(request);
    await call();
    return { answer: "OK", call };
  },
};

test.each(Object.entries(REPEATS))("%s: repeats are limited, and have one row together", async (_, prepare) => {
  const own = await bot();
  const { answer, call } = await prepare(own);
  const before = await rowsOf(own.principal);
  const ends = await Promise.all(Array.from({ length: 40 }, () => outcome(call())));
  expect(new Set(ends)).toEqual(new Set([answer, "LIMIT_EXCEEDED"]));
  expect(ends.filter((end) => end === answer).length).toBeGreaterThanOrEqual(10);
  expect(await rowsOf(own.principal)).toHaveLength(before.length + 1);
  expect(
    await sallyport.sql("select from sallyport.audit where action = 'token.reuse' and owner = $1", [own.principal]),
  ).toEqual([]);
});

test("a caller with too many repeats can still revoke live tokens, and each revocation has its row", async () => {
  const own = await bot();
  const spend = () => outcome(own.by.tokens.revokeTokens({ ids: [UNKNOWN], noWait: true }));
  await expect.poll(spend, { interval: 0 }).toBe("LIMIT_EXCEEDED");
  const last = async () => (await rowsOf(own.principal)).at(-1);
  expect(await outcome(own.by.tokens.revokeTokens({ ids: [UNKNOWN, own.other], noWait: true }))).toBe("OK");
  expect(await last()).toMatchObject({ action: "token.revoke", metadata: { bulk: "true" } });
  await spend();
  // The rotation ended its own string; its family lives on.
  const rotated = await own.by.tokens.rotateToken({ id: own.id, overlap: hour, noWait: true });
  await sallyport.admin.tokens.revokeToken({ ...byId(own.id), noWait: true });
  const next = sallyport.as(rotated.tokenString);
  await spend();
  expect(await outcome(next.tokens.revokeToken({ ...byId(own.id), family: true, noWait: true }))).toBe("OK");
  expect(
    await sallyport.sql("select from sallyport.tokens where id = $1 and revoke_time is null", [rotated.token!.id]),
  ).toEqual([]);
});

test("a string that was rotated away spends no repeat of its principal, and is refused like every dead one", async () => {
  const own = await bot();
  await own.by.tokens.rotateToken({ id: own.id, noWait: true, requestId: randomUUID() });
  const steal = () => outcome(own.by.tokens.rotateToken({ id: own.id, noWait: true, requestId: randomUUID() }));
  const ends = await Promise.all(Array.from({ length: 30 }, steal));
  expect(new Set(ends)).toEqual(new Set(["CALLER_UNAUTHENTICATED"]));
});

test("each repeat by an administrator has its own row", async () => {
  const own = await bot();
  const revoke = () => sallyport.admin.tokens.revokeToken({ ...byId(own.other), noWait: true });
  for (let i = 0; i < 12; i++) await revoke();
  expect(await rowsOf(own.principal)).toHaveLength(12);
});

test("a stop logs the number of repeats without their own row", async () => {
  const own = await bot();
  const call = () => outcome(own.by.tokens.revokeTokens({ ids: [UNKNOWN], noWait: true }));
  for (let i = 0; i < 5; i++) expect(await call()).toBe("OK");
  await sallyport.halt();
  expect((await rowsOf(own.principal)).map(({ metadata }) => metadata)).toEqual([
    { revoked: "0" },
    { repeat: "true", merged: "4" },
  ]);
});
