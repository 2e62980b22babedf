import { Buffer } from "node:buffer";
import { describe, expect, test } from "vitest";
import { refusedOffline } from "../../clients/typescript/src/offline.ts";
import { NO_REQUIREMENT } from "../../src/domain/decide.ts";
import { Freshness } from "../../src/domain/freshness.ts";
import { type ClaimedFacts, jwtHint, LONGEST_JWT, signingInput, signJwt } from "../../src/domain/jwt-string.ts";
import { Keyring } from "../../src/domain/keyring.ts";
import {
  digestAt,
  hasJwtHeader,
  holdsTokenString,
  mintTokenString,
  newTokenId,
  parseTokenString,
} from "../../src/domain/token-string.ts";
import { Lookup } from "../../src/validation/lookup.ts";
import { Signatures } from "../../src/validation/signatures.ts";
import { validateKnownWith, validateWith } from "../../src/validation/validate.ts";
import { HandTime, recordedEvents, turn } from "../support/hand-time.ts";
import { forgeries, ISSUER, signingKeys, unpart } from "../support/signing.ts";
import { EPOCH, snapshot } from "../support/token-snapshot.ts";

const pepper = (fill: number) => Buffer.alloc(32, fill).toString("base64");
const keyring = new Keyring("1", { "1": pepper(1), "2": pepper(2) }, signingKeys());
const NOWHERE = { clientAddress: "" };

const facts = (over: Partial<ClaimedFacts> = {}): ClaimedFacts => ({
  ...{ id: newTokenId(), tenant: "acme", profile: "pat", principal: "user:ann", scopes: ["repo:read"], audiences: [] },
  ...{ issueTime: 1_700_000_000_900, expireTime: 1_800_000_000_900, ...over },
});

function jwt(alg: "EdDSA" | "ES256", over: Partial<ClaimedFacts> = {}): string {
  const signedBy = keyring.signing!.current(alg)!;
  const keys = keyring.current;
  return signJwt(signingInput(facts(over), ISSUER, signedBy, keys), { signedBy, keys }).tokenString.reveal();
}

/** The validation over a store that knows every digest, and counts what it is asked. */
function validation() {
  const time = new HandTime();
  const { events } = recordedEvents();
  const freshness = new Freshness(1500);
  freshness.begin(EPOCH, 0);
  let reads = 0;
  const reader = {
    read: async (digest: string) => {
      reads++;
      const now = time.clock.mono();
      const found = { snapshot: snapshot(5, { digest }), sent: now, received: now };
      return { inRecovery: false, epoch: EPOCH, proven: true, position: 5, dbTime: 1.7e12, ...found };
    },
    reconnect() {},
  };
  const { clock, timers } = time;
  const lookup = new Lookup(
    { freshness, reader, clock, timers, events, wake() {} },
    {
      ...{ l1Entries: 5000, l1Bytes: 1e8, l1TtlMs: 60_000, l1DeadTtlMs: 5000 },
      ...{ maxReads: 64, maxQueuedReads: 5000, maxCacheReads: 2, readTimeoutMs: 400 },
    },
  );
  const now = clock.mono();
  const page = { inRecovery: false, epoch: EPOCH, position: 5, dbTime: 1.7e12, ownRowLive: true, proven: true };
  freshness.apply({ ...page, floorN: 0, rows: [], full: false }, now, now);
  const deps = { keyring, lookup, freshness, clock, events };
  const validate = validateWith(deps);
  const known = validateKnownWith(deps);
  const callers = validateWith({ ...deps, signatures: new Signatures(time, "callers") });
  const ask = (text: string, ms = 1000) => validate(text, NO_REQUIREMENT, NOWHERE, clock.mono() + ms);
  const askAsCaller = (text: string) => callers(text, NO_REQUIREMENT, NOWHERE, clock.mono() + 1000);
  const askKnown = (text: string) => {
    const bytes = Buffer.from(`--${text}--`, "latin1");
    return known(bytes, 2, bytes.length - 2, NO_REQUIREMENT, NOWHERE);
  };
  return { time, ask, askAsCaller, askKnown, reads: () => reads, forget: () => lookup.forget() };
}

describe("a token string in JWT form", () => {
  test("has the claims that its facts state, and none that they do not", () => {
    const [header, claims] = jwt("EdDSA", { notBeforeTime: 1_700_000_100_100 }).split(".");
    expect(unpart(header!)).toEqual({ alg: "EdDSA", typ: "JWT", kid: "ed-1", pk: "1" });
    expect(unpart(claims!)).toEqual({
      ...{ iss: ISSUER, sub: "user:ann", jti: expect.stringMatching(/^tok_/), typ: "pat", scope: "repo:read" },
      // Never more than the row: it begins later and ends earlier, by less than a second.
      ...{ iat: 1_700_000_000, nbf: 1_700_000_101, exp: 1_800_000_000, tenant: "acme" },
    });
    const lasting = unpart(jwt("ES256", { expireTime: undefined, audiences: ["a", "b"], scopes: [] }).split(".")[1]!);
    expect(lasting).toMatchObject({ aud: ["a", "b"], scope: "" });
    expect(Object.keys(lasting)).not.toContain("exp");
  });

  test("is the same at every signing with EdDSA, and another one with ES256", () => {
    const same = facts();
    expect(jwt("EdDSA", same)).toBe(jwt("EdDSA", same));
    expect(jwt("ES256", same)).not.toBe(jwt("ES256", same));
  });

  test("has a hint that is the start of its id, and not of the string", () => {
    expect(jwtHint("tok_0123456789abcdefghijKL")).toBe("tok_01234567");
  });

  test.each(["EdDSA", "ES256"] as const)(
    "%s: is found by the digest of all of it, read once, and then in memory",
    async (alg) => {
      const { ask, askKnown, reads } = validation();
      const text = jwt(alg, {
        audiences: Array.from({ length: 12 }, (_, i) => `https://api-${i}.example/with/a/path`),
      });
      expect(text.length).toBeGreaterThan(512);
      expect(await ask(text)).toMatchObject({ verdict: "ALLOW", tier: "store" });
      expect(ask(text)).toMatchObject({ verdict: "ALLOW", tier: "l1" });
      expect(askKnown(text)).toMatchObject({ verdict: "ALLOW", tier: "l1" });
      expect(reads()).toBe(1);
      const bytes = Buffer.from(text, "latin1");
      expect(digestAt(bytes, 0, bytes.length, keyring)).toBe(parseTokenString(text, keyring)!.digest);
    },
  );

  test("no forgery is allowed, and none costs a read: neither a statement nor a command", async () => {
    const [ed, es] = [jwt("EdDSA"), jwt("ES256")];
    const cases = forgeries(ed, es);
    expect(cases.length).toBeGreaterThan(30);
    expect(new Set(cases.map(([, text]) => text)).size).toBe(cases.length);
    for (const [name, text] of cases) {
      const { ask, askKnown, reads } = validation();
      expect(await ask(text), name).toMatchObject({ verdict: "INVALID_TOKEN", tier: "none" });
      expect(askKnown(text), name).toBeUndefined();
      expect(reads(), name).toBe(0);
    }
  });

  test("no changed character is allowed or read", async () => {
    const { ask, reads, time } = validation();
    for (const text of [jwt("EdDSA"), jwt("ES256")]) {
      for (let at = 0; at < text.length; at++) {
        for (const other of text[at] === "A" ? ["B", "."] : ["A", "."]) {
          const forged = text.slice(0, at) + other + text.slice(at + 1);
          if (forged === text) continue;
          expect(await ask(forged), `${other} at ${at}`).toMatchObject({ verdict: "INVALID_TOKEN" });
        }
        await time.advance(10);
      }
    }
    expect(reads()).toBe(0);
  });

  test("16 signatures are checked at once, 200 strings wait for a later turn, and beyond it is not known", async () => {
    const { ask, askKnown, time, reads } = validation();
    const known = jwt("EdDSA");
    await ask(known);
    await time.advance(10);
    const [header, claims, signature] = jwt("EdDSA").split(".") as [string, string, string];
    const stranger = (i: number) => `${header}.${claims}.${String(i).padStart(6, "0")}${signature.slice(6)}`;
    for (let i = 0; i < 16; i++) expect(ask(stranger(i))).toMatchObject({ verdict: "INVALID_TOKEN" });
    const cold = jwt("ES256");
    const waiting = [ask(cold), ask(cold)];
    let answered = 0;
    for (let i = 1; i < 200; i++) void Promise.resolve(ask(stranger(100 + i))).then(() => answered++);
    expect(ask(stranger(2_001))).toMatchObject({ verdict: "UNDETERMINED" });
    expect(ask(jwt("ES256"))).toMatchObject({ verdict: "UNDETERMINED" });
    expect(ask(known)).toMatchObject({ verdict: "ALLOW", tier: "l1" });
    expect(askKnown(known)).toMatchObject({ verdict: "ALLOW" });
    const opaque = mintTokenString("sp_pat", keyring.current).tokenString.reveal();
    expect(await ask(opaque)).toMatchObject({ verdict: "ALLOW", tier: "store" });
    expect([reads(), answered]).toEqual([2, 0]);
    await time.advance(10);
    expect(await Promise.all(waiting)).toMatchObject([{ verdict: "ALLOW" }, { verdict: "ALLOW" }]);
    // Calls for one string share its check.
    expect([reads(), answered]).toEqual([3, 15]);
    await time.advance(120);
    expect(answered).toBe(199);
    expect(ask(stranger(2_002))).toMatchObject({ verdict: "INVALID_TOKEN" });
  });

  test("callers of Sallyport have a budget of their own: neither side uses up that of the other", async () => {
    const { ask, askAsCaller, time } = validation();
    const [header, claims, signature] = jwt("EdDSA").split(".") as [string, string, string];
    const stranger = (i: number) => `${header}.${claims}.${String(i).padStart(6, "0")}${signature.slice(6)}`;
    for (let i = 0; i < 4; i++) expect(askAsCaller(stranger(i))).toMatchObject({ verdict: "INVALID_TOKEN" });
    for (let i = 4; i < 204; i++) void askAsCaller(stranger(i));
    expect(askAsCaller(stranger(204))).toMatchObject({ verdict: "UNDETERMINED" });
    for (let i = 0; i < 16; i++) expect(ask(stranger(i))).toMatchObject({ verdict: "INVALID_TOKEN" });
    for (let i = 16; i < 216; i++) void ask(stranger(i));
    expect(ask(stranger(216))).toMatchObject({ verdict: "UNDETERMINED" });
    await time.advance(600);
    expect(askAsCaller(stranger(300))).toMatchObject({ verdict: "INVALID_TOKEN" });
  });

  test("a string that waits is not known at its deadline", async () => {
    const { ask, time, reads } = validation();
    for (let i = 0; i < 16; i++) await ask(jwt("EdDSA"));
    const late = ask(jwt("EdDSA"), 5);
    await time.advance(5);
    expect(await late).toMatchObject({ verdict: "UNDETERMINED" });
    await time.advance(20);
    expect(reads()).toBe(16);
  });

  test("a string whose signature was right once needs no further check, and the look-up still decides", async () => {
    const { ask, time, forget, reads } = validation();
    const good = Array.from({ length: 60 }, () => jwt("EdDSA"));
    for (const text of good) {
      expect(await ask(text)).toMatchObject({ verdict: "ALLOW", tier: "store" });
      await time.advance(1);
    }
    forget();
    const again = good.map((text) => ask(text));
    await turn();
    expect(reads()).toBe(120);
    for (const answer of again) expect(await answer).toMatchObject({ verdict: "ALLOW", tier: "store" });
    const [head, signature] = [good[0]!.slice(0, -86), good[1]!.slice(-86)];
    expect(await ask(head + signature)).toMatchObject({ verdict: "INVALID_TOKEN", tier: "none" });
  });

  test("a right signature counts for its key only, not for another key under the same id", async () => {
    const time = new HandTime();
    const signatures = new Signatures(time);
    const text = jwt("EdDSA");
    const parsed = parseTokenString(text, keyring)!;
    expect([signatures.ours(text, parsed, 2000), signatures.ours(text, parsed, 2000)]).toEqual([true, true]);
    const signedBy = signingKeys().current("EdDSA")!;
    expect(signatures.ours(text, { ...parsed, signedBy }, 2000)).toBe(false);
  });

  test("is recognised as ours by its header alone, and as a secret wherever it stands", () => {
    for (const text of [jwt("EdDSA"), jwt("ES256")]) {
      expect(hasJwtHeader(text, keyring)).toBe(true);
      expect(hasJwtHeader(`${text.split(".")[0]}.x.y`, keyring)).toBe(true);
      expect(hasJwtHeader(text, new Keyring("1", { "1": pepper(1) }))).toBe(false);
      expect(hasJwtHeader(text, new Keyring("1", { "1": pepper(1) }, signingKeys()))).toBe(true);
      for (const around of [text, `see ${text}, please`, `https://x.example/?t=${text}`]) {
        expect(holdsTokenString(around)).toBe(true);
      }
    }
    expect(hasJwtHeader(jwt("EdDSA"), new Keyring("7", { "7": pepper(1) }, signingKeys()))).toBe(false);
  });

  test("is unknown without its signing key, and another server's is foreign under the same names", async () => {
    const other = new Keyring("1", { "1": pepper(1) }, signingKeys());
    const signedBy = other.signing!.current("EdDSA")!;
    const foreign = signJwt(signingInput(facts(), ISSUER, signedBy, other.current), { signedBy, keys: other.current });
    const { ask, reads } = validation();
    expect(ask(foreign.tokenString.reveal())).toMatchObject({ verdict: "INVALID_TOKEN", tier: "none" });
    expect(reads()).toBe(0);
    expect(parseTokenString(jwt("EdDSA"), new Keyring("1", { "1": pepper(1) }))).toBeUndefined();
  });

  test("is at most as long as client caches ask about, and they refuse none", () => {
    const pad = (n: number) => jwt("EdDSA", { scopes: ["x".repeat(n)] });
    const longest = pad(Math.floor(((LONGEST_JWT - pad(0).length) * 3) / 4));
    expect(longest.length).toBeGreaterThan(LONGEST_JWT - 4);
    expect(longest.length).toBeLessThanOrEqual(LONGEST_JWT);
    for (const text of [pad(1), longest]) {
      expect(parseTokenString(text, keyring)).toBeDefined();
      expect(refusedOffline(text)).toBe(false);
    }
    const tooLong = pad(LONGEST_JWT);
    expect(parseTokenString(tooLong, keyring)).toBeUndefined();
    expect(digestAt(Buffer.from(tooLong), 0, tooLong.length, keyring)).toBeUndefined();
    expect(refusedOffline(tooLong)).toBe(true);
  });
});
