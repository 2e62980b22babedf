import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from "node:crypto";
import { StartError } from "./start-error.ts";

export const SIGNING_ALGORITHMS = ["EdDSA", "ES256"] as const;
export type SigningAlgorithm = (typeof SIGNING_ALGORITHMS)[number];

/** A key pair that signs token strings in JWT form, or its public half, which only verifies. */
export interface SigningKey {
  readonly id: string;
  readonly alg: SigningAlgorithm;
  readonly public: KeyObject;
  readonly private: KeyObject | undefined;
}

/** The signing keys of a configuration. `current`: the id, or the id for each algorithm. A key is a JWK or PEM. */
export interface SigningSettings {
  readonly issuer: string;
  readonly current?: string | { readonly [alg in SigningAlgorithm]?: string | undefined } | undefined;
  readonly keys: Readonly<Record<string, string | Readonly<Record<string, unknown>>>>;
}

/** The bytes of a signature, of either algorithm. */
export const SIGNATURE_BYTES = 64;

/** The signing keys: several at once, at most one of them current for each algorithm. They do not change. */
export class SigningKeys {
  readonly issuer: string;
  readonly keys: ReadonlyMap<string, SigningKey>;
  /** The JWK set (RFC 7517) with every public key, as JSON. */
  readonly jwks: string;
  readonly #current: ReadonlyMap<SigningAlgorithm, SigningKey>;

  /** Throws StartError. Its message holds no byte of a key. */
  constructor(settings: SigningSettings) {
    this.issuer = settings.issuer;
    const found = Object.entries(settings.keys).map(([id, text]) => [id, keyOf(id, text)] as const);
    this.keys = new Map(found);
    const names =
      typeof settings.current === "object" ? Object.entries(settings.current) : [["", settings.current ?? ""] as const];
    const current = new Map<SigningAlgorithm, SigningKey>();
    for (const [alg, id] of names) {
      if (id === undefined || id === "") continue;
      const key = this.keys.get(id);
      const where = alg === "" ? "current" : `current.${alg}`;
      if (key === undefined) throw invalid(`${where} must be one of the keys`);
      if (alg !== "" && key.alg !== alg) throw invalid(`${where} must name a key of that algorithm`);
      current.set(key.alg, key);
    }
    this.#current = current;
    this.jwks = JSON.stringify({ keys: found.map(([, key]) => publicJwk(key)) });
  }

  /** The current key of an algorithm. It may lack its private half. */
  current(alg: SigningAlgorithm): SigningKey | undefined {
    return this.#current.get(alg);
  }

  /** Keys of an algorithm that can sign, the current one first. None if there is no current one. */
  signers(alg: SigningAlgorithm): SigningKey[] {
    const current = this.#current.get(alg);
    if (current?.private === undefined) return [];
    const others = [...this.keys.values()].filter((key) => key.alg === alg && key !== current);
    return [current, ...others.filter((key) => key.private !== undefined)];
  }

  /** Throws StartError if a key of `before` has another key under its id here. */
  assertContinues(before: SigningKeys | undefined): void {
    for (const [id, key] of this.keys) {
      const known = before?.keys.get(id);
      if (known !== undefined && !known.public.equals(key.public)) {
        throw invalid(`keys.${id} must stay as it is: a new key needs a new id`);
      }
    }
  }
}

/**
 * The name under which an instance tells the others that it knows a signing key. It has the start of the key's thumbprint
 * (RFC 7638), because two instances can have different keys under one id. No pepper has such a name.
 */
export function signingKid({ id, public: key }: SigningKey): string {
  const { crv, kty, x, y } = key.export({ format: "jwk" });
  // The members in the order of their names; an absent one is left out.
  const thumbprint = createHash("sha256").update(JSON.stringify({ crv, kty, x, y })).digest("base64url");
  return `sig:${id}:${thumbprint.slice(0, 8)}`;
}

/** The signature of a text, in base64url. With ES256 each call gives another one. */
export function signed(text: string, key: SigningKey): string {
  const data = Buffer.from(text, "latin1");
  if (key.alg === "EdDSA") return sign(null, data, key.private!).toString("base64url");
  return lowForm(sign("sha256", data, { key: key.private!, dsaEncoding: "ieee-p1363" })).toString("base64url");
}

/** True if `signature` is a signature of the text. Of the two forms of an ES256 signature only the low one is. */
export function isSigned(text: string, signature: Buffer, key: SigningKey): boolean {
  if (signature.length !== SIGNATURE_BYTES) return false;
  const data = Buffer.from(text, "latin1");
  if (key.alg === "EdDSA") return verify(null, data, key.public, signature);
  if (scalar(signature) > HALF_ORDER) return false;
  return verify("sha256", data, { key: key.public, dsaEncoding: "ieee-p1363" }, signature);
}

/** New signing keys, one of each algorithm, in the form of the signing file. */
export function freshSigning(issuer: string): SigningSettings {
  const jwk = (pair: { privateKey: KeyObject }) => pair.privateKey.export({ format: "jwk" }) as Record<string, unknown>;
  return {
    issuer,
    current: { EdDSA: "ed-1", ES256: "es-1" },
    keys: {
      "ed-1": jwk(generateKeyPairSync("ed25519")),
      "es-1": jwk(generateKeyPairSync("ec", { namedCurve: "P-256" })),
    },
  };
}

/** The order of P-256. From a signature (r, s), anybody can make (r, order - s) without the key. */
const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const HALF_ORDER = ORDER >> 1n;

function scalar(signature: Buffer): bigint {
  return BigInt(`0x${signature.toString("hex", 32)}`);
}

function lowForm(signature: Buffer): Buffer {
  const s = scalar(signature);
  if (s > HALF_ORDER) signature.write((ORDER - s).toString(16).padStart(64, "0"), 32, "hex");
  return signature;
}

const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

function keyOf(id: string, text: string | Readonly<Record<string, unknown>>): SigningKey {
  if (!ID.test(id)) throw invalid("keys: an id is 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first");
  const pair = parsed(text);
  const alg = pair && algorithmOf(pair.public);
  if (pair === undefined || alg === undefined) {
    throw invalid(`keys.${id} must be an Ed25519 or P-256 key, as a JWK or as PEM`);
  }
  const key = { id, alg, ...pair };
  // A JWK states its public half beside the private one, and nothing else compares them.
  if (key.private !== undefined && !fits(key)) {
    throw invalid(`keys.${id} must be one key: its private half does not fit its public half`);
  }
  return key;
}

function fits(key: SigningKey): boolean {
  const text = "sallyport";
  return isSigned(text, Buffer.from(signed(text, key), "base64url"), key);
}

function parsed(text: string | Readonly<Record<string, unknown>>): Pick<SigningKey, "public" | "private"> | undefined {
  try {
    const jwk: unknown = typeof text === "string" && text.trimStart().startsWith("{") ? JSON.parse(text) : text;
    const input = typeof jwk === "string" ? { key: jwk } : { key: jwk as never, format: "jwk" as const };
    const hasPrivate = typeof jwk === "string" ? jwk.includes("PRIVATE KEY") : Object.hasOwn(jwk as object, "d");
    if (!hasPrivate) return { public: createPublicKey(input as never), private: undefined };
    const key = createPrivateKey(input as never);
    if (typeof jwk === "string") return { public: createPublicKey(key), private: key };
    // The public half as the JWK states it, which others are given: not one made from the private half.
    const { d: _, ...half } = jwk as Record<string, unknown>;
    return { public: createPublicKey({ key: half as never, format: "jwk" }), private: key };
  } catch {
    return undefined;
  }
}

function algorithmOf(key: KeyObject): SigningAlgorithm | undefined {
  if (key.asymmetricKeyType === "ed25519") return "EdDSA";
  const { namedCurve } = key.asymmetricKeyDetails ?? {};
  return key.asymmetricKeyType === "ec" && namedCurve === "prime256v1" ? "ES256" : undefined;
}

function publicJwk({ id, alg, public: key }: SigningKey): Record<string, unknown> {
  return { ...key.export({ format: "jwk" }), kid: id, alg, use: "sig" };
}

function invalid(problem: string): StartError {
  return new StartError("signing_invalid", `signing: ${problem}`);
}
