import { describe, expect, it } from "vitest";
import { effectOf, record, table, withoutSecrets } from "../../src/cli/output.ts";
import { visible } from "../../src/domain/visible.ts";
import { type Effect, EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";

const effect = (fields: Partial<Effect>) => ({ position: 42n, ...fields }) as Effect;

describe("output", () => {
  it("aligns columns by the longest cell and shows an empty cell as -", () => {
    expect(
      table(
        ["ID", "NAME", "STATE"],
        [
          ["tok_a", "", "ACTIVE"],
          ["t", "a long name", "REVOKED"],
        ],
      ),
    ).toBe(["ID     NAME         STATE", "tok_a  -            ACTIVE", "t      a long name  REVOKED"].join("\n"));
  });

  it("omits facts without a value from a record", () => {
    expect(
      record([
        ["id", "tok_a"],
        ["name", ""],
        ["principal", "bot:ci"],
      ]),
    ).toBe("id         tok_a\nprincipal  bot:ci");
  });

  it("escapes foreign text that could move the cursor or change the direction", () => {
    expect(visible("a\u001b[2Jb\u202ec\nd\u009b")).toBe("a\\u{1b}[2Jb\\u{202e}c\\u{a}d\\u{9b}");
  });

  it("removes everything in the form of a token string, and leaves ids and hints", () => {
    const secret = `1x7Kd02Qa${"s".repeat(43)}abcdef`;
    expect(withoutSecrets(`got sp_pat_${secret}, eyJhbGciOiJFUzI1NiJ9.eyJzdWIi.c2ln`)).toBe(
      "got [token string], [token string]",
    );
    const harmless = "tok_3fKabcdefghijklmnopqr token:sp_pat_1x7Kd02Qa 0190c7a4-7c1e-7d54-9b0a-3f1f6c1f0a10";
    expect(withoutSecrets(harmless)).toBe(harmless);
  });

  it.each([
    [
      effect({ mode: EffectMode.ACKED, waited: { seconds: 0n, nanos: 12_000_000 } as Effect["waited"] }),
      "in force everywhere after 12 ms (ACKED), position 42",
    ],
    [
      effect({ mode: EffectMode.LEASE_EXPIRED, waited: { seconds: 1n, nanos: 500_000_000 } as Effect["waited"] }),
      "in force everywhere after 1.5 s (LEASE_EXPIRED), position 42",
    ],
    [
      effect({
        mode: EffectMode.ACCEPTED,
        effectiveBy: { seconds: 1_800_000_000n, nanos: 0 } as Effect["effectiveBy"],
      }),
      "durable, in force everywhere by 2027-01-15T08:00:00Z at the latest (ACCEPTED), position 42",
    ],
  ])("says what an effect proves", (given, sentence) => expect(effectOf(given)).toBe(sentence));
});
