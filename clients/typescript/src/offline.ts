const LONGEST = 4096;
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/** A prefix, then kid, tag, secret and CRC-32. */
const SHAPE = /^[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{58}$/;
const CRC = 6;
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** The prefixes whose strings have a checksum, unless a checker is told others. */
export const CHECKED_PREFIXES: readonly string[] = ["sp_"];

/** True if a string cannot be a live token, so that no server need be asked. */
export function refusedOffline(token: string, checkedPrefixes: readonly string[] = CHECKED_PREFIXES): boolean {
  if (token === "" || token.length > LONGEST) return true;
  return checkedPrefixes.some((prefix) => token.startsWith(prefix)) && !hasShape(token);
}

function hasShape(token: string): boolean {
  if (!SHAPE.test(token)) return false;
  const end = token.length - CRC;
  let crc = 0xffffffff;
  for (let i = 0; i < end; i++) crc = (crc >>> 8) ^ TABLE[(crc ^ token.charCodeAt(i)) & 0xff]!;
  let rest = (crc ^ 0xffffffff) >>> 0;
  let digits = "";
  for (; digits.length < CRC; rest = Math.floor(rest / 62)) digits = DIGITS[rest % 62] + digits;
  return token.endsWith(digits);
}
