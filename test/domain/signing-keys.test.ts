import { createHash, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { describe, expect, test } from "vitest";
import { Keyring } from "../../src/domain/keyring.ts";
import { isSigned, SigningKeys, type SigningSettings, signed, signingKid } from "../../src/domain/signing-keys.ts";
import { StartError } from "../../src/domain/start-error.ts";
import { otherForm, signingSettings } from "../support/signing.ts";

const ISSUER = "https://tokens.example";
const ed = generateKeyPairSync("ed25519");
const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });
const pem = (key: KeyObject, type: "pkcs8" | "sec1" = "pkcs8") => key.export({ format: "pem", type }).toString();
const publicPem = (key: KeyObject) => key.export({ format: "pem", type: "spki" }).toString();
const jwk = (key: KeyObject) => key.export({ format: "jwk" }) as Record<string, unknown>;
const other = jwk(generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey);
const pepper = (fill: number) => ({ "1": Buffer.alloc(32, fill).toString("base64") });

describe("signing keys", () => {
  test.each<[string, string | Record<string, unknown>, "EdDSA" | "ES256", boolean]>([
    ["an Ed25519 JWK", jwk(ed.privateKey), "EdDSA", true],
    ["an Ed25519 JWK as text", JSON.stringify(jwk(ed.privateKey)), "EdDSA", true],
    ["an Ed25519 public JWK", jwk(ed.publicKey), "EdDSA", false],
    ["Ed25519 PEM", pem(ed.privateKey), "EdDSA", true],
    ["Ed25519 public PEM", publicPem(ed.publicKey), "EdDSA", false],
    ["a P-256 JWK", jwk(ec.privateKey), "ES256", true],
    ["P-256 PEM", pem(ec.privateKey), "ES256", true],
    ["P-256 PEM of openssl ecparam", pem(ec.privateKey, "sec1"), "ES256", true],
    ["P-256 public PEM", publicPem(ec.publicKey), "ES256", false],
  ])("can be %s, and the key set never has its private half", (_, key, alg, canSign) => {
    const keys = new SigningKeys({ issuer: ISSUER, current: "a", keys: { a: key } });
    expect(keys.current(alg)?.id).toBe("a");
    expect(keys.signers(alg).map(({ id }) => id)).toEqual(canSign ? ["a"] : []);
    const [published] = (JSON.parse(keys.jwks) as { keys: Record<string, unknown>[] }).keys;
    expect(published).toMatchObject({ kid: "a", alg, use: "sig", kty: alg === "EdDSA" ? "OKP" : "EC" });
    expect(published).not.toHaveProperty("d");
    const pair = alg === "EdDSA" ? ed : ec;
    expect(createPublicKey({ key: published as never, format: "jwk" }).equals(pair.publicKey)).toBe(true);
  });

  test.each<[string, Partial<SigningSettings>]>([
    ["a current that is not there", { current: "b" }],
    ["a current of another algorithm", { current: { ES256: "a" } }],
    ["an RSA key", { keys: { a: pem(generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey) } }],
    ["a key of another curve", { keys: { a: jwk(generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey) } }],
    ["an X25519 key", { keys: { a: jwk(generateKeyPairSync("x25519").privateKey) } }],
    ["a symmetric key", { keys: { a: { kty: "oct", k: "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0" } } }],
    [
      "a P-256 key with another one's public half",
      { keys: { a: { ...jwk(ec.privateKey), x: other["x"], y: other["y"] } } },
    ],
    [
      "an Ed25519 key with another one's public half",
      { keys: { a: { ...jwk(ed.privateKey), x: jwk(generateKeyPairSync("ed25519").publicKey)["x"] } } },
    ],
    ["broken JSON", { keys: { a: `{"kty":"OKP","d":"${jwk(ed.privateKey)["d"]}"` } }],
    ["broken PEM", { keys: { a: pem(ed.privateKey).replace("MC4", "") } }],
    ["an empty text", { keys: { a: "" } }],
    ["an empty JWK", { keys: { a: {} } }],
    ["an id with a quote", { keys: { 'a"': jwk(ed.privateKey) } }],
    ["an id that is a path", { keys: { "../a": jwk(ed.privateKey) } }],
    ["an id of 65 characters", { keys: { ["a".repeat(65)]: jwk(ed.privateKey) } }],
    ["an empty id", { keys: { "": jwk(ed.privateKey) } }],
  ])("cannot be %s; the message holds no byte of a key", (_, change) => {
    const settings = { issuer: ISSUER, keys: { a: jwk(ed.privateKey) }, ...change };
    try {
      new SigningKeys(settings);
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(StartError);
      expect((error as StartError).exitCode).toBe(78);
      expect((error as Error).message).toMatch(/^signing: /);
      expect((error as Error).message).not.toContain(String(jwk(ed.privateKey)["d"]));
    }
  });

  test("sign so that the other key, another text and the other form of ES256 do not verify", () => {
    const keys = new SigningKeys(signingSettings());
    for (const alg of ["EdDSA", "ES256"] as const) {
      const key = keys.current(alg)!;
      // Half of all ES256 signatures are made in the high form, and turned.
      for (let i = 0; i < 20; i++) {
        const signature = signed("text", key);
        expect(isSigned("text", Buffer.from(signature, "base64url"), key)).toBe(true);
        expect(isSigned("texts", Buffer.from(signature, "base64url"), key)).toBe(false);
        const other = keys.current(alg === "EdDSA" ? "ES256" : "EdDSA")!;
        expect(isSigned("text", Buffer.from(signature, "base64url"), other)).toBe(false);
        if (alg === "ES256") expect(isSigned("text", Buffer.from(otherForm(signature), "base64url"), key)).toBe(false);
      }
      expect(isSigned("text", Buffer.alloc(63), key)).toBe(false);
      expect(isSigned("text", Buffer.alloc(64), key)).toBe(false);
    }
  });

  test("replace one another as a whole: a known id keeps its key, and a refused change changes nothing", () => {
    const first = signingSettings();
    const ring = new Keyring("1", pepper(1), new SigningKeys(first));
    const before = ring.signing;
    const changed = { ...first, keys: { ...first.keys, "ed-1": jwk(generateKeyPairSync("ed25519").privateKey) } };
    expect(() => ring.replaceSigning(new SigningKeys(changed))).toThrow("keys.ed-1 must stay as it is");
    expect(() => ring.replace("1", pepper(1), new SigningKeys(changed))).toThrow(StartError);
    expect(() => ring.replace("1", pepper(9), new SigningKeys(first))).toThrow(StartError);
    expect(ring.signing).toBe(before);
    const named = (name: string) => expect.stringMatching(new RegExp(`^sig:${name}:[\\w-]{8}$`));
    expect(ring.names()).toEqual(["1", named("ed-1"), named("es-1")]);
    const more = { ...first, keys: { ...first.keys, "ed-2": jwk(generateKeyPairSync("ed25519").privateKey) } };
    ring.replace("2", { ...pepper(1), "2": Buffer.alloc(32, 2).toString("base64") }, new SigningKeys(more));
    expect(ring.names()).toEqual(["1", "2", named("ed-1"), named("ed-2"), named("es-1")]);
    expect(ring.signing!.signers("EdDSA").map(({ id }) => id)).toEqual(["ed-1", "ed-2"]);
    ring.replace("1", pepper(1), undefined);
    expect([ring.names(), ring.signing]).toEqual([["1"], undefined]);
    ring.replaceSigning(new SigningKeys(more));
    ring.replaceSigning(undefined);
    expect(ring.names()).toEqual(["1"]);
  });

  test("with a public half alone only verify", () => {
    const settings = signingSettings();
    const halves = Object.fromEntries(Object.entries(settings.keys).map(([id, { d: _, ...half }]) => [id, half]));
    const keys = new SigningKeys({ issuer: ISSUER, keys: halves });
    expect(keys.signers("EdDSA")).toEqual([]);
    const signature = signed("text", new SigningKeys(settings).current("EdDSA")!);
    expect(isSigned("text", Buffer.from(signature, "base64url"), keys.keys.get("ed-1")!)).toBe(true);
  });
});

test("a key set has the thumbprint that others compute (RFC 8037, appendix A.3)", () => {
  const x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
  const keys = new SigningKeys({ issuer: ISSUER, keys: { a: { kty: "OKP", crv: "Ed25519", x } } });
  const { crv, kty, x: published } = (JSON.parse(keys.jwks) as { keys: Record<string, unknown>[] }).keys[0]!;
  const thumbprint = createHash("sha256")
    .update(JSON.stringify({ crv, kty, x: published }))
    .digest("base64url");
  expect(thumbprint).toBe("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
  expect(signingKid(keys.keys.get("a")!)).toBe("sig:a:kPrK_qmx");
});
