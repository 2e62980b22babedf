import { hkdfSync, randomBytes } from "node:crypto";
import { isBase62 } from "./base62.ts";
import { Mac } from "./mac.ts";
import { type SigningKey, type SigningKeys, signingKid } from "./signing-keys.ts";
import { StartError } from "./start-error.ts";

/** The purpose of a sub-key, as its label. A key never serves two purposes. */
type Purpose = "digest" | "tag" | "cache-key" | "cache-seal" | "mint" | "page" | "console" | "console-seal" | "check";

/** The sub-keys of one pepper. */
export interface Keys {
  readonly kid: string;
  /** Makes the look-up key of a token string. */
  readonly digest: Mac;
  /** Makes the tag. A forged string has the wrong tag and is refused without I/O. */
  readonly tag: Mac;
  /** Makes the names of entries in the L2 cache. */
  readonly cacheKey: Mac;
  /** 32 bytes. The keys that seal such entries are derived from them. */
  readonly cacheSeal: Uint8Array;
  /** Makes the secret of a token whose request has a `request_id`. */
  readonly mint: Mac;
  /** Authenticates page tokens. */
  readonly page: Mac;
  /** Authenticates the cookies of the console, and makes the names of its sessions in the database. */
  readonly console: Mac;
  /** 32 bytes: seals the tokens of such sessions. */
  readonly consoleSeal: Uint8Array;
  /** Stored in the database, so that a wrong pepper is detected at start. It reveals nothing about the pepper. */
  readonly checkValue: Buffer;
}

/** The keys that the header of a token string in JWT form names: the one that signed it, and the pepper of its digest. */
export interface JwtHeader {
  readonly signedBy: SigningKey;
  readonly keys: Keys;
}

/**
 * The peppers: secrets that live outside the database, several at once, one of them current. The kid in a token string
 * picks the pepper; no other pepper is tried. And the signing keys, if token strings can have JWT form.
 */
export class Keyring {
  #current!: Keys;
  #keys: ReadonlyMap<string, Keys> = new Map();
  #signing: SigningKeys | undefined;
  #headers: ReadonlyMap<string, JwtHeader> = new Map();

  /** `keys` maps a kid (one base62 character) to a base64 pepper of at least 32 bytes. Throws StartError. */
  constructor(current: string, keys: Readonly<Record<string, string>>, signing?: SigningKeys) {
    this.replace(current, keys, signing);
  }

  /** Replaces all keys, or none. A known kid must keep its pepper, and a known id its signing key. Throws StartError. */
  replace(current: string, keys: Readonly<Record<string, string>>, signing: SigningKeys | undefined): void {
    const fresh = new Map<string, Keys>();
    for (const [kid, text] of Object.entries(keys)) {
      if (kid.length !== 1 || !isBase62(kid, 0, 1)) {
        throw invalid("keys: a kid is one character of 0-9 A-Z a-z");
      }
      const pepper = Buffer.from(text, "base64");
      if (pepper.length < 32) throw invalid(`keys.${kid} must be base64 of at least 32 bytes`);
      const made = deriveKeys(kid, pepper);
      const known = this.#keys.get(kid);
      if (known !== undefined && !made.checkValue.equals(known.checkValue)) {
        throw invalid(`keys.${kid} must stay as it is: a new pepper needs a new kid`);
      }
      fresh.set(kid, known ?? made);
    }
    const keysOfCurrent = fresh.get(current);
    if (keysOfCurrent === undefined) throw invalid("current must be one of the keys");
    signing?.assertContinues(this.#signing);
    this.#keys = fresh;
    this.#current = keysOfCurrent;
    this.#use(signing);
  }

  /** Replaces the signing keys alone. Throws StartError. */
  replaceSigning(signing: SigningKeys | undefined): void {
    signing?.assertContinues(this.#signing);
    this.#use(signing);
  }

  #use(signing: SigningKeys | undefined): void {
    const headers = new Map<string, JwtHeader>();
    for (const signedBy of signing?.keys.values() ?? []) {
      for (const keys of this.#keys.values()) headers.set(headerOf(signedBy, keys), { signedBy, keys });
    }
    this.#signing = signing;
    this.#headers = headers;
  }

  get current(): Keys {
    return this.#current;
  }

  get(kid: string): Keys | undefined {
    return this.#keys.get(kid);
  }

  kids(): string[] {
    return [...this.#keys.keys()].sort();
  }

  /** The names of all peppers and signing keys, as an instance tells them to the others. */
  names(): string[] {
    return [...this.kids(), ...[...(this.#signing?.keys.values() ?? [])].map(signingKid).sort()];
  }

  /** The signing keys; undefined if there are none. */
  get signing(): SigningKeys | undefined {
    return this.#signing;
  }

  /** The keys that a header names, byte for byte as we write it. No other header is ours, whatever its JSON says. */
  header(text: string): JwtHeader | undefined {
    return this.#headers.get(text);
  }

  all(): Keys[] {
    return [...this.#keys.values()];
  }
}

/** The header of a token string in JWT form, as base64url. `pk` names the pepper of the digest. */
export function headerOf({ alg, id }: SigningKey, { kid }: Keys): string {
  return Buffer.from(JSON.stringify({ alg, typ: "JWT", kid: id, pk: kid })).toString("base64url");
}

/** A new keyring with one random pepper, in the form of the keyring file. */
export function freshKeyring(): { current: string; keys: Record<string, string> } {
  return { current: "1", keys: { "1": randomBytes(32).toString("base64") } };
}

/** The message holds no byte of a key. */
function invalid(problem: string): StartError {
  return new StartError("keyring_invalid", `keyring: ${problem}`);
}

function deriveKeys(kid: string, pepper: Uint8Array): Keys {
  // HKDF-SHA256 (RFC 5869). The label is the info, so that sub-keys for different purposes are independent.
  const sub = (purpose: Purpose) => new Uint8Array(hkdfSync("sha256", pepper, "", `sallyport/v1/${purpose}`, 32));
  return {
    kid,
    digest: new Mac(sub("digest")),
    tag: new Mac(sub("tag")),
    cacheKey: new Mac(sub("cache-key")),
    cacheSeal: sub("cache-seal"),
    mint: new Mac(sub("mint")),
    page: new Mac(sub("page")),
    console: new Mac(sub("console")),
    consoleSeal: sub("console-seal"),
    checkValue: new Mac(sub("check")).fields("key-check", kid).subarray(0, 16),
  };
}
