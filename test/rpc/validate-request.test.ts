import { create, type DescMethodUnary } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Health } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { requestValidator } from "../../src/rpc/validate-request.ts";

const checkBounds = requestValidator();
/** Checks a request: what it was refused for, or that it arrives at the handler. */
async function send(method: DescMethodUnary, init: object) {
  try {
    checkBounds(method.input, create(method.input, init as never));
    return { arrived: true, violations: [] as { field: string; description: string }[] };
  } catch (error) {
    const {
      reason,
      violations,
      message: text,
    } = error as { reason: string; violations: { field: string; description: string }[]; message: string };
    return { arrived: false, reason, violations, text };
  }
}
const createToken = (init: object) =>
  send(TokenAdmin.method.createToken as DescMethodUnary, { profile: "pat", principal: "user:a", ...init });

describe("a request of the admin listener", () => {
  test("reaches the handler only if it is within its bounds", async () => {
    expect(await createToken({ displayName: "x" })).toMatchObject({ arrived: true });
    const refused = await createToken({
      description: "d".repeat(501),
      scopes: Array.from({ length: 101 }, () => "s"),
      tenant: "t".repeat(64),
    });
    expect(refused).toMatchObject({ arrived: false, reason: "INVALID_FIELD" });
    // All at once, each with its bound.
    expect(refused.violations.map(({ field }) => field)).toEqual(["tenant", "description", "scopes"]);
    for (const [i, bound] of [/63/, /500/, /100/].entries()) expect(refused.violations[i]?.description).toMatch(bound);
  });

  test("is refused without repeating a value of a field or a key of a map", async () => {
    const mark = "zq-marker".repeat(20);
    for (const init of [
      { annotations: { [mark]: "x" } },
      { annotations: { x: mark.repeat(2) } },
      { scopes: [mark] },
      { requestId: mark },
    ]) {
      const refused = await createToken(init);
      expect(refused.reason).toBe("INVALID_FIELD");
      expect(JSON.stringify(refused)).not.toContain("zq-marker");
    }
    expect((await createToken({ annotations: { [mark]: "x" } })).violations.map(({ field }) => field)).toEqual([
      "annotations",
    ]);
  });

  test("with very many bad entries is refused as fast as one with few, and names at most a few", async () => {
    const revoke = TokenAdmin.method.revokeTokens as DescMethodUnary;
    const empty = (length: number) => Array.from({ length }, () => "");
    await send(revoke, { ids: empty(1_001) });
    const from = performance.now();
    const many = await send(revoke, { ids: empty(500_000), hints: empty(500_000) });
    // Checked one by one they take ten times as long on a machine that has nothing else to do.
    expect(performance.now() - from).toBeLessThan(1_000);
    const few = await send(revoke, { ids: empty(1_001), hints: empty(1_001) });
    expect(many).toEqual(few);
    expect(many.violations).toHaveLength(32);
    expect(many.violations[0]).toEqual({ field: "hints", description: "must contain no more than 1000 item(s)" });
    const annotations = Object.fromEntries(Array.from({ length: 30_000 }, (_, i) => [`${"k".repeat(300)}${i}`, ""]));
    const pairs = await createToken({ annotations });
    expect(pairs.violations).toHaveLength(32);
    const nested = await send(TokenAdmin.method.updateToken as DescMethodUnary, {
      token: { id: "x", scopes: empty(100_000) },
    });
    expect(nested.violations).toHaveLength(32);
  });

  test("must not contain NUL in a field, a list, a map or a nested message", async () => {
    for (const [init, field] of [
      [{ displayName: "a\0b" }, "display_name"],
      [{ scopes: ["ok", "a\0"] }, "scopes"],
      [{ annotations: { "a\0": "x" } }, "annotations"],
      [{ annotations: { x: "a\0" } }, "annotations"],
    ] as const) {
      expect((await createToken(init)).violations).toEqual([{ field, description: "must not hold the character NUL" }]);
    }
    const update = await send(TokenAdmin.method.updateToken as DescMethodUnary, {
      token: { id: "x\0" },
      updateMask: { paths: ["disabled"] },
    });
    expect(update.violations[0]?.field).toBe("token.id");
    const revoke = await send(TokenAdmin.method.revokeToken as DescMethodUnary, {
      target: { case: "tokenString", value: "\0" },
    });
    expect(revoke.violations[0]?.field).toBe("token_string");
  });
});

test("requests of other packages are left alone", async () => {
  expect(await send(Health.method.check as DescMethodUnary, { service: "x\0" })).toMatchObject({ arrived: true });
});
