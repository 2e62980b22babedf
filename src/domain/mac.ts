import { createHmac, createSecretKey, hash, type KeyObject, timingSafeEqual } from "node:crypto";

const BLOCK = 64;
const LONGEST = 512;

/**
 * HMAC-SHA256 under one key (RFC 2104), fast for short messages.
 *
 * The one-shot form hashes `ipad ‖ message` and then `opad ‖ inner` with `crypto.hash`. It gives the same bytes as
 * `createHmac` at about half the cost. Long messages, and all calls off the hot path, go through `createHmac`.
 */
export class Mac {
  readonly #key: KeyObject;
  readonly #inner = Buffer.alloc(BLOCK + LONGEST);
  readonly #outer = Buffer.alloc(BLOCK + 32);
  readonly #views: Buffer[] = [];

  /** `key` is 32 to 64 bytes. */
  constructor(key: Uint8Array) {
    if (key.length < 32 || key.length > BLOCK) throw new RangeError("a MAC key has 32 to 64 bytes");
    this.#key = createSecretKey(key);
    for (let i = 0; i < BLOCK; i++) {
      const k = key[i] ?? 0;
      this.#inner[i] = k ^ 0x36;
      this.#outer[i] = k ^ 0x5c;
    }
    for (let n = 0; n <= LONGEST; n++) this.#views.push(this.#inner.subarray(0, BLOCK + n));
  }

  /** The MAC of a string of one-byte characters, as 32 characters of latin1 that can be a map key. */
  latin1(message: string): string {
    const n = message.length;
    if (n > LONGEST) return createHmac("sha256", this.#key).update(message, "latin1").digest("binary");
    this.#inner.write(message, BLOCK, n, "latin1");
    return this.#finish(n);
  }

  /**
   * `latin1` of the characters bytes[from, to), without building a string. Undefined if one is not ASCII.
   */
  latin1At(bytes: Uint8Array, from: number, to: number): string | undefined {
    const n = to - from;
    if (n > LONGEST) return this.#longAt(bytes.subarray(from, to));
    const inner = this.#inner;
    let all = 0;
    for (let i = 0; i < n; i++) all |= inner[BLOCK + i] = bytes[from + i]!;
    if (all > 0x7f) return undefined;
    return this.#finish(n);
  }

  #longAt(bytes: Uint8Array): string | undefined {
    for (const byte of bytes) if (byte > 0x7f) return undefined;
    return createHmac("sha256", this.#key).update(bytes).digest("binary");
  }

  #finish(n: number): string {
    this.#outer.write(hash("sha256", this.#views[n]!, "binary"), BLOCK, 32, "latin1");
    return hash("sha256", this.#outer, "binary");
  }

  /**
   * The MAC of several fields. The length of each field precedes it as 4 bytes, so that no two lists of fields look
   * alike.
   */
  fields(...fields: readonly (string | Uint8Array)[]): Buffer {
    const mac = createHmac("sha256", this.#key);
    const length = Buffer.alloc(4);
    for (const field of fields) {
      const bytes = typeof field === "string" ? Buffer.from(field, "utf8") : field;
      length.writeUInt32BE(bytes.length);
      mac.update(length).update(bytes);
    }
    return mac.digest();
  }
}

/** Compares two secrets of any length, in time that depends only on their lengths. */
export function sameSecret(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}
