import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { TokenState } from "../../src/domain/token.ts";
import { TokenState as WireState } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { durationMillis, effectMessage, given, millis, tokenState, validateMessage } from "../../src/rpc/convert.ts";
import { snapshot } from "../support/token-snapshot.ts";

const INT64 = { min: -(2n ** 63n), max: 2n ** 63n - 1n };
const fieldOf = (act: () => unknown) => {
  try {
    act();
    return undefined;
  } catch (error) {
    return (error as { violations: { field: string }[] }).violations[0]?.field;
  }
};

describe("durations", () => {
  test.each([
    [0n, 0, 0],
    [1n, 999_999, 1000],
    [1n, 1_000_000, 1001],
    [-1n, -1, -1001],
    [315_576_000_000n, 999_999_999, 315_576_000_000_999],
  ])("%d s and %d ns are %d ms, rounded down", (seconds, nanos, expected) => {
    expect(durationMillis("f", { seconds, nanos } as never)).toBe(expected);
  });

  test("with any int64 and int32 become a safe number or a refusal that names the field", () => {
    fc.assert(
      fc.property(fc.bigInt(INT64), fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), (seconds, nanos) => {
        let ms: number | undefined;
        const field = fieldOf(() => (ms = durationMillis("f", { seconds, nanos } as never)));
        if (field === undefined) expect(Number.isSafeInteger(ms)).toBe(true);
        else expect(field).toBe("f");
      }),
      { numRuns: 2000 },
    );
    for (const seconds of [INT64.min, INT64.max, 315_576_000_001n, -315_576_000_001n])
      expect(fieldOf(() => durationMillis("f", { seconds, nanos: 0 } as never))).toBe("f");
    for (const nanos of [1_000_000_000, -1_000_000_000])
      expect(fieldOf(() => durationMillis("f", { seconds: 0n, nanos } as never))).toBe("f");
    expect(fieldOf(() => durationMillis("f", { seconds: 1n, nanos: -1 } as never))).toBe("f");
    expect(durationMillis("f", undefined)).toBeUndefined();
  });
});

describe("times", () => {
  test("with any int64 become a safe number within the years 1 to 9999, or a refusal that names the field", () => {
    fc.assert(
      fc.property(fc.bigInt(INT64), fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), (seconds, nanos) => {
        let ms: number | undefined;
        const field = fieldOf(() => (ms = millis("f", { seconds, nanos } as never)));
        if (field === undefined) expect(new Date(ms!).toISOString().length).toBeGreaterThan(20);
        else expect(field).toBe("f");
      }),
      { numRuns: 2000 },
    );
    expect(millis("f", { seconds: 253_402_300_799n, nanos: 999_999_999 } as never)).toBe(253_402_300_799_999);
    expect(millis("f", { seconds: -62_135_596_800n, nanos: 0 } as never)).toBe(-62_135_596_800_000);
    for (const seconds of [253_402_300_800n, -62_135_596_801n, INT64.max])
      expect(fieldOf(() => millis("f", { seconds, nanos: 0 } as never))).toBe("f");
    expect(millis("f", undefined)).toBeUndefined();
  });
});

test("each state converts to the wire and back; UNSPECIFIED and unknown values are no state", () => {
  for (const name of Object.keys(WireState).filter((key) => key !== "UNSPECIFIED")) {
    expect(tokenState(WireState[name as keyof typeof WireState])).toBe(name as TokenState);
  }
  expect(tokenState(WireState.UNSPECIFIED)).toBeUndefined();
  expect(tokenState(99 as never)).toBeUndefined();
});

test("INVALID_TOKEN and UNDETERMINED carry no token; the reason goes only to callers who may see it", () => {
  const alone = validateMessage({ verdict: "INVALID_TOKEN", reason: "revoked" }, false);
  expect(alone).toMatchObject({ verdict: Verdict.INVALID_TOKEN, missingScopes: [], reason: "" });
  expect(alone.token).toBeUndefined();
  expect(validateMessage({ verdict: "INVALID_TOKEN", reason: "revoked" }, true).reason).toBe("revoked");
  const allowed = validateMessage(
    { verdict: "ALLOW", snapshot: snapshot(1, { annotations: { k: "v" }, expire: 1000 }) },
    true,
  );
  expect(allowed.token).toMatchObject({
    id: "tok_0000000000000000000000",
    annotations: { k: "v" },
    hint: "sp_bot_1abcdefgh",
  });
  // Nothing of the inside: no digest, no label, no state.
  expect(Object.keys(allowed.token!).sort()).toEqual([
    "$typeName",
    "annotations",
    "audiences",
    "expireTime",
    "hint",
    "id",
    "principal",
    "profile",
    "scopes",
    "tenant",
    "tenants",
  ]);
});

test("an effect's wait and time are rounded to units of the wire", () => {
  const effect = effectMessage({
    mode: "ACKED",
    position: 7,
    acknowledged: 3,
    validators: 3,
    waitedMs: 1234.5678,
    effectiveBy: 1000.9,
  });
  expect(effect).toMatchObject({ position: 7n, waited: { seconds: 1n, nanos: 234_567_800 } });
  expect([given(""), given("x")]).toEqual([undefined, "x"]);
});
