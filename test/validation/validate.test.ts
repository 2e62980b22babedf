import { describe, expect, it } from "vitest";
import { NO_REQUIREMENT } from "../../src/domain/decide.ts";
import { Keyring } from "../../src/domain/keyring.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import { mintTokenString } from "../../src/domain/token-string.ts";
import type { Lookup, LookupResult } from "../../src/validation/lookup.ts";
import { validateWith } from "../../src/validation/validate.ts";
import { HandTime, recordedEvents } from "../support/hand-time.ts";
import { snapshot } from "../support/token-snapshot.ts";

const keyring = new Keyring("1", { "1": Buffer.alloc(32, 1).toString("base64") });
const text = mintTokenString("sp_bot", keyring.current).tokenString.reveal();
const context = { clientAddress: "10.0.0.1" };

/** The path above a look-up that finds just this. */
function fixture(found: LookupResult) {
  const { clock } = new HandTime();
  const { events, happened } = recordedEvents();
  const used: string[] = [];
  const lookup: Pick<Lookup, "find"> = { find: (_text, _parsed, _deadline, answer) => answer(found) };
  const validate = validateWith({
    keyring,
    lookup: lookup as Lookup,
    clock,
    events,
    used: (id) => void used.push(id),
  });
  return { ask: (token = text) => validate(token, NO_REQUIREMENT, context, 1e9), happened, used };
}

const found = (over: Partial<TokenSnapshot>): LookupResult => ({
  kind: "found",
  snapshot: snapshot(5, over),
  time: { lower: 1e12, upper: 1e12 },
  tier: "l1",
});

describe("validate", () => {
  it.each(["", "x", "sp_bot_", `${text}x`, "\0".repeat(5000), "é".repeat(100)])(
    "answers INVALID_TOKEN at once for what has not the shape of a token: %j",
    (odd) => {
      const { ask, happened } = fixture({ kind: "undetermined" });
      expect(ask(odd)).toEqual({ verdict: "INVALID_TOKEN", reason: "malformed", tier: "none" });
      expect(happened).toEqual(["validated:INVALID_TOKEN"]);
    },
  );

  it("returns the decision and its tier, counts it once, and reports the use", () => {
    const { ask, happened, used } = fixture(found({}));
    expect(ask()).toEqual({ verdict: "ALLOW", snapshot: snapshot(5), tier: "l1" });
    expect(happened).toEqual(["validated:ALLOW"]);
    expect(used).toEqual([snapshot(5).id]);
  });

  it("returns UNDETERMINED, not INVALID_TOKEN, if nothing is proven", () => {
    const { ask, used } = fixture({ kind: "undetermined" });
    expect(ask()).toEqual({ verdict: "UNDETERMINED", tier: "none" });
    expect(used).toEqual([]);
  });

  it("reports the use of a string that its rotation ended, and of no other dead string", () => {
    for (const [over, reused] of [
      [{ rotated: true, expire: 1 }, true],
      [{ rotated: true, expire: 1, revoked: true }, true],
      [{ rotated: true, expire: 2e12, revoked: true }, false],
      [{ rotated: true }, false],
      [{ rotated: true, disabled: true }, false],
      [{ revoked: true }, false],
    ] as const) {
      const { ask, happened } = fixture(found(over));
      void ask();
      expect(happened.some((what) => what.startsWith("tokenReused"))).toBe(reused);
    }
  });
});
