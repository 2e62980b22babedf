import { hkdfSync, randomBytes } from "node:crypto";
import { isBase62 } from "./base62.ts";
import { Mac } from "./mac.ts";
import { StartError } from "./start-error.ts";

/** The purpose of a sub-key, as its label. A key never serves two purposes. */
type Purpose = "digest" | "tag" | "cache-key" | "cache-seal" | "mint" | "page" | "check";

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
  /** Stored in the database, so that a wrong pepper is detected at start. It reveals nothing about the pepper. */
  readonly checkValue: Buffer;
}

/**
 * The peppers: secrets that live outside the database, several at once, one of them current. The kid in a token string
 * picks the pepper; no other pepper is tried.
 */
export class Keyring {
  #current!: Keys;
  #keys: ReadonlyMap<string, Keys> = new Map();

  /** `keys` maps a kid (one base62 character) to a base64 pepper of at least 32 bytes. Throws StartError. */
  constructor(current: string, keys: Readonly<Record<string, string>>) {
    this.replace(current, keys);
  }

  /** Replaces the peppers, all or none. A known kid must keep its pepper. Throws StartError. */
  replace(current: string, keys: Readonly<Record<string, string>>): void {
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
    this.#keys = fresh;
    this.#current = keysOfCurrent;
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

  all(): Keys[] {
    return [...this.#keys.values()];
  }
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
    checkValue: new Mac(sub("check")).fields("key-check", kid).subarray(0, 16),
  };
}
