import { holdsTokenString } from "./token-string.ts";

/*
 * Texts of clients in a record that people read. No token string may be in them, in whole or in part.
 */

const LONGEST_PATH = 256;
const TOKEN = "[token]";
/** A piece without punctuation that is longer than a word: secret, if it mixes capitals, small letters and digits. */
const RUN = /[\w-]{28,}/g;
const UNSAFE = /[\p{Cc}\u2028\u2029\ufffd]/gu;

/** A path: each segment that holds something like a token string is `[token]`. `cut`: the end of the path is missing. */
export function recordedPath(path: string, cut: boolean): string {
  const segments = path.split("/");
  // The last segment may be the first part of a token string.
  if (cut) segments[segments.length - 1] = "…";
  return shortened(segments.map((segment) => recordedText(segment, Infinity)).join("/"), LONGEST_PATH);
}

/** Any other text, of at most `bytes` bytes. */
export function recordedText(text: string, bytes: number): string {
  return looksLikeToken(text) ? TOKEN : shortened(text.toWellFormed().replace(UNSAFE, "?"), bytes);
}

function looksLikeToken(text: string): boolean {
  if (text.length < 28) return false;
  for (let form = text, times = 0; times < 3; times++) {
    if (holdsTokenString(form) || (form.match(RUN) ?? []).some(isMixed)) return true;
    const decoded = form.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
    if (decoded === form) return false;
    form = decoded;
  }
  // Encoded over and over: nobody does that for a path that a person should read.
  return true;
}

function isMixed(run: string): boolean {
  return /[a-z]/.test(run) && /[A-Z]/.test(run) && /[0-9]/.test(run);
}

/** Cut at a whole character. */
function shortened(text: string, bytes: number): string {
  if (text.length * 3 <= bytes) return text;
  const all = Buffer.from(text);
  if (all.length <= bytes) return text;
  let end = bytes - 3;
  while ((all[end]! & 0xc0) === 0x80) end--;
  return `${all.toString("utf8", 0, end)}…`;
}
