import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CreateTokenRequestSchema } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { failure, seconds, TestSallyport } from "../support/sallyport.ts";

const DAY = 86_400;
const LONGEST = 3650 * DAY;
const INT64_MAX = 9_223_372_036_854_775_807n;

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({
    config: {
      profiles: {
        short: { principals: ["user"], max_ttl: "1h", default_ttl: "90d", scope_ceilings: { "deploy:prod": "10m" } },
      },
    },
  });
  await sallyport.registered("bot:ci");
});
afterAll(() => sallyport?.stop());

const lived = ({ token }: Awaited<ReturnType<TestSallyport["createToken"]>>) =>
  token.expireTime && (timestampMs(token.expireTime) - timestampMs(token.createTime!)) / 1000;
const ttl = (value: number | bigint, nanos = 0) => ({ case: "ttl" as const, value: { seconds: BigInt(value), nanos } });
const at = (ms: number) => ({ case: "expireTime" as const, value: timestampFromMs(ms) });
const NEVER = { case: "noExpiry" as const, value: true };

/** Three protocols, so that the bound does not depend on one codec. */
const refusals = async (lifetime: NonNullable<Parameters<TestSallyport["createToken"]>[0]>["lifetime"], more = {}) => {
  const each = (["connect", "grpc", "grpc-web"] as const).map((protocol) =>
    failure(sallyport.createToken({ lifetime, ...more }, sallyport.as(sallyport.adminToken, protocol))),
  );
  return Promise.all(each);
};

describe("ttl", () => {
  test.each([
    ["1 s", 1],
    ["10 years", LONGEST],
  ])("%s is taken, to the millisecond", async (_, value) => {
    expect(lived(await sallyport.createToken({ lifetime: ttl(value) }))).toBe(value);
  });

  test.each([
    ["0", 0n, 0],
    ["-1 s", -1n, 0],
    ["-1 ns", 0n, -1],
    ["less than a millisecond", 0n, 999_999],
    ["10 years and 1 s", BigInt(LONGEST + 1), 0],
    ["the longest Duration, 315576000000 s", 315_576_000_000n, 0],
    ["the largest int64", INT64_MAX, 0],
    ["the smallest int64", -INT64_MAX - 1n, 0],
    ["mixed signs", 1n, -1],
  ])("%s is INVALID_ARGUMENT that names the field and the bound", async (_, value, nanos) => {
    for (const refused of await refusals({ case: "ttl", value: { seconds: value, nanos } })) {
      expect(refused).toMatchObject({ code: "InvalidArgument", reason: "INVALID_FIELD", domain: "sallyport" });
      expect(refused.violations.map(({ field }) => field)).toEqual(["ttl"]);
      expect(refused.violations[0]?.description).toMatch(/more than 0s and at most 315360000s|at most 315576000000s/);
    }
  });

  test("is refused by field name in JSON: 0s, -1s, 315360001s and 315576000000s are 400", async () => {
    for (const value of ["0s", "-1s", "315360001s", "315576000000s"]) {
      const response = await sallyport.post(
        "admin",
        "/sallyport.v1.TokenAdmin/CreateToken",
        { profile: "pat", principal: "user:ann", displayName: "x", ttl: value },
        { authorization: `Bearer ${sallyport.adminToken}` },
      );
      expect(response.status).toBe(400);
      const body = (await response.json()) as { details: { debug?: { fieldViolations?: { field: string }[] } }[] };
      expect(JSON.stringify(body)).toContain('"ttl"');
    }
  });

  test("an int64 beyond JSON's range does not overflow in the binary codec either", () => {
    const bytes = toBinary(
      CreateTokenRequestSchema,
      create(CreateTokenRequestSchema, { lifetime: { case: "ttl", value: { seconds: INT64_MAX, nanos: 0 } } }),
    );
    expect(Buffer.from(bytes).toString("hex")).toContain("ffffffffffffffff7f");
  });
});

describe("expire_time", () => {
  test("is taken exactly, within ten years", async () => {
    const end = Date.now() + 3600_000;
    expect(timestampMs((await sallyport.createToken({ lifetime: at(end) })).token.expireTime!)).toBe(end);
  });

  test.each([
    ["the past", () => timestampFromMs(Date.now() - 1000)],
    ["ten years and a minute", () => timestampFromMs(Date.now() + (LONGEST + 60) * 1000)],
    ["the year 9999", () => timestampFromMs(253_402_300_799_000)],
    ["the largest int64", () => seconds(INT64_MAX)],
    ["the smallest int64", () => seconds(-INT64_MAX - 1n)],
    [
      "nanoseconds beyond a second",
      () => ({ seconds: BigInt(Math.floor(Date.now() / 1000) + 60), nanos: 2_000_000_000 }),
    ],
  ])("%s is INVALID_ARGUMENT that names the field", async (_, value) => {
    for (const refused of await refusals({ case: "expireTime", value: value() })) {
      expect(refused).toMatchObject({ code: "InvalidArgument", reason: "INVALID_FIELD" });
      expect(refused.violations.map(({ field }) => field)).toEqual(["expire_time"]);
    }
  });
});

describe("a request without a lifetime, and without an end", () => {
  test("gets the profile's default: 90 days, and 30 for adm", async () => {
    expect(lived(await sallyport.createToken({}))).toBe(90 * DAY);
    expect(lived(await sallyport.callerWith(["sallyport.tokens.read"]))).toBe(30 * DAY);
  });

  test("a default longer than the profile's longest is cut to it", async () => {
    expect(lived(await sallyport.createToken({ profile: "short" }))).toBe(3600);
  });

  test("no_expiry makes a token without an end if the profile allows it, and is refused by name otherwise", async () => {
    expect((await sallyport.createToken({ lifetime: NEVER })).token.expireTime).toBeUndefined();
    for (const profile of ["org", "adm"]) {
      const [refused] = await refusals(NEVER, { profile, principal: "org:all" });
      expect(refused).toMatchObject({ code: "InvalidArgument", violations: [{ field: "no_expiry" }] });
    }
  });

  test("no_expiry: false is refused, because it means nothing", async () => {
    const [refused] = await refusals({ case: "noExpiry", value: false });
    expect(refused).toMatchObject({ code: "InvalidArgument", violations: [{ field: "no_expiry" }] });
  });

  test("each profile has its own longest: org and adm at most 365 days", async () => {
    for (const profile of ["org", "adm"]) {
      expect(lived(await sallyport.createToken({ profile, principal: "org:all", lifetime: ttl(365 * DAY) }))).toBe(
        365 * DAY,
      );
      const [refused] = await refusals(ttl(365 * DAY + 1), { profile, principal: "org:all" });
      expect(refused?.violations[0]).toMatchObject({ field: "ttl", description: expect.stringContaining("31536000s") });
    }
  });
});

describe("ceilings of scopes", () => {
  test("a token that holds `bootstrap` lives an hour at most, whatever was requested, and the answer shows it", async () => {
    const asked = [{ case: undefined }, ttl(LONGEST), NEVER, at(Date.now() + DAY * 1000)] as const;
    for (const lifetime of asked) {
      expect(lived(await sallyport.createToken({ scopes: ["repo:read", "bootstrap"], lifetime }))).toBe(3600);
    }
    expect(lived(await sallyport.createToken({ scopes: ["bootstrap"], lifetime: ttl(60) }))).toBe(60);
  });

  test("a wildcard that covers a scope with a ceiling is clamped, and any other is left alone", async () => {
    const life = async (...scopes: string[]) =>
      lived(await sallyport.createToken({ profile: "short", scopes, lifetime: ttl(3600) }));
    expect(await life("deploy:*")).toBe(600);
    expect(await life("deploy:prod")).toBe(600);
    expect(await life("deploy:production")).toBe(3600);
    expect(await life("deploy:prod:*")).toBe(3600);
    expect(await life("deploy.*")).toBe(3600);
  });

  test("scopes that an update adds bring their ceiling with them", async () => {
    const { id } = await sallyport.createToken({ lifetime: NEVER });
    const updated = await sallyport.admin.tokens.updateToken({
      token: { id, scopes: ["bootstrap"] },
      updateMask: { paths: ["scopes"] },
      noWait: true,
    });
    const left = timestampMs(updated.token!.expireTime!) - Date.now();
    expect(left).toBeGreaterThan(3_590_000);
    expect(left).toBeLessThan(3_610_000);
    const refused = await failure(
      sallyport.admin.tokens.updateToken({
        token: { id, expireTime: timestampFromMs(Date.now() - 1) },
        updateMask: { paths: ["expire_time"] },
      }),
    );
    expect(refused).toMatchObject({
      code: "InvalidArgument",
      violations: [{ field: expect.stringContaining("expire_time") }],
    });
  });
});

describe("not_before_time", () => {
  test("a token is refused before it, and listed as NOT_YET_VALID", async () => {
    const { tokenString, token } = await sallyport.createToken({
      notBeforeTime: timestampFromMs(Date.now() + 3600_000),
    });
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    expect(token.state).toBe(2);
  });

  test("it must lie before the expiry, also before one that a ceiling made", async () => {
    const [late] = await refusals(ttl(60), { notBeforeTime: timestampFromMs(Date.now() + 61_000) });
    expect(late).toMatchObject({ code: "InvalidArgument", violations: [{ field: "not_before_time" }] });
    const [clamped] = await refusals(NEVER, {
      scopes: ["bootstrap"],
      notBeforeTime: timestampFromMs(Date.now() + 3_700_000),
    });
    expect(clamped).toMatchObject({ code: "InvalidArgument", violations: [{ field: "not_before_time" }] });
    const [absurd] = await refusals(NEVER, { notBeforeTime: seconds(INT64_MAX) });
    expect(absurd).toMatchObject({ code: "InvalidArgument", violations: [{ field: "not_before_time" }] });
  });
});

test("a token ends by itself: it is accepted before its expiry, refused after it, and shown as EXPIRED", async () => {
  const { tokenString, id, token } = await sallyport.createToken({ lifetime: ttl(1) });
  expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  await expect.poll(() => sallyport.verdict(tokenString), { timeout: 3000, interval: 20 }).toBe("INVALID_TOKEN");
  expect(Date.now()).toBeGreaterThan(timestampMs(token.expireTime!) - 100);
  await expect
    .poll(async () => (await sallyport.admin.tokens.getToken({ id })).token?.state, { timeout: 2000, interval: 20 })
    .toBe(3);
});
