const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const VALUES = new Int8Array(128).fill(-1);
for (let i = 0; i < DIGITS.length; i++) VALUES[DIGITS.charCodeAt(i)] = i;

/** Encodes the bytes as one big-endian number, modulo 62^width, in exactly `width` base62 digits. */
export function base62(bytes: Uint8Array, width: number): string {
  let number = 0n;
  for (const byte of bytes) number = (number << 8n) | BigInt(byte);
  return digits(number, width);
}

/** Encodes an unsigned integer below 2^53 in exactly `width` base62 digits. */
export function base62Number(number: number, width: number): string {
  let out = "";
  for (let rest = number; out.length < width; rest = Math.floor(rest / 62)) out = DIGITS[rest % 62] + out;
  return out;
}

/** True if every character of `text` in [from, to) is a base62 digit. */
export function isBase62(text: string, from: number, to: number): boolean {
  for (let i = from; i < to; i++) {
    const code = text.charCodeAt(i);
    if (!(VALUES[code]! >= 0)) return false;
  }
  return true;
}

function digits(number: bigint, width: number): string {
  let out = "";
  for (let rest = number; out.length < width; rest /= 62n) out = DIGITS[Number(rest % 62n)] + out;
  return out;
}
