import { computed, signal } from "@preact/signals";

/** Characters that a browser shows as nothing, or that turn the direction of text. */
const UNSAFE = /[\p{Cc}\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

/** A foreign text as a person must see it: what is invisible is written `\u{202e}`, as in the command line. */
export function visible(text: string): string {
  return text.replace(UNSAFE, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`);
}

interface Stamp {
  readonly seconds: bigint;
  readonly nanos: number;
}

export function millis(stamp: Stamp): number {
  return Number(stamp.seconds) * 1000 + stamp.nanos / 1_000_000;
}

export function stampOf(ms: number): { seconds: bigint; nanos: number } {
  const seconds = Math.floor(ms / 1000);
  return { seconds: BigInt(seconds), nanos: Math.floor(ms - seconds * 1000) * 1_000_000 };
}

export const DAY = 86_400_000;
/** True: times are shown in UTC, else in the browser's zone. */
export const utc = signal(false);
const formats = computed(() => {
  const zone = utc.value ? { timeZone: "UTC" } : {};
  const date = { day: "numeric", month: "short", year: "numeric", ...zone } as const;
  const time = { hour: "2-digit", minute: "2-digit" } as const;
  return {
    dates: new Intl.DateTimeFormat("en-GB", date),
    times: new Intl.DateTimeFormat("en-GB", { ...date, ...time }),
    longTimes: new Intl.DateTimeFormat("en-GB", { ...date, ...time, weekday: "long", month: "long" }),
    zones: new Intl.DateTimeFormat("en-GB", { timeZoneName: "shortOffset", ...zone }),
  };
});

export const dateText = (ms: number) => formats.value.dates.format(ms);
export const timeText = (ms: number) => formats.value.times.format(ms);
export const longTimeText = (ms: number) => formats.value.longTimes.format(ms);
export const utcText = (ms: number) => new Date(ms).toISOString().replace(/\.\d{3}Z$/, "Z");
/** The zone of the times: "UTC+1". */
export const zoneText = () =>
  formats.value.zones
    .formatToParts(Date.now())
    .find(({ type }) => type === "timeZoneName")!
    .value.replace(/^GMT(?:\+0$)?/, "UTC");

const STEPS = [
  [365 * DAY, "year"],
  [30 * DAY, "month"],
  [DAY, "day"],
  [3_600_000, "hour"],
  [60_000, "minute"],
  [1000, "second"],
] as const;
const relatives = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** The distance from now: "in 58 days", "yesterday", "just now". */
export function relativeText(ms: number, now: number): string {
  const distance = ms - now;
  if (Math.abs(distance) < 5000) return "just now";
  const [size, unit] = STEPS.find(([step]) => Math.abs(distance) >= step) ?? STEPS[5];
  return relatives.format(Math.round(distance / size), unit);
}

const SPANS = STEPS.filter(([, unit]) => unit !== "month");

/** A length of time: "10 years", "90 days", "1 hour". */
export function spanText(ms: number): string {
  const [size, unit] = SPANS.find(([step]) => ms >= step && ms % step === 0) ?? STEPS[5];
  const count = Math.round(ms / size);
  return `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"}`;
}

/** A short wait: "8 ms", "1.9 s". */
export function waitText(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** True if a text holds something in the form of a token string or a JWT. Nothing of that kind may be sent or kept. */
export function holdsToken(text: string): boolean {
  const found = /[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{40,}/.test(text) || /eyJ[\w-]{8,}\.[\w-]+\.[\w-]*/.test(text);
  flush();
  return found;
}

/** What other programs call their secrets, and the words that stand before one. */
const KNOWN =
  /\b(?:gh[opsur]_|github_pat_|glpat-|xox[abeprs]-|sk-|[rs]k_(?:live|test)_|whsec_|npm_|pypi-|hf_|dop_v1_|shpat_|AIza)(?=[\w-]*\d)[\w-]{16,}|\bA[KS]IA[0-9A-Z]{12,}|-----BEGIN |\b[Bb](?:earer|asic) (?=\S*\d)\S{16,}/;
/** A principal, an actor or a target: what follows the colon may look like anything. */
const NAMED = /^(?:user|bot|service|org|token|session|mtls|tenant|principal|role):/;
const ID = /^(?:tok_[0-9A-Za-z]{22}|[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{9}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;

/**
 * True for every text that may be a credential: also a token that was cut short, the secret of another program, and a
 * long text that no person would choose as a name. `prefixes` are those of the profiles.
 */
export function looksSecret(text: string, prefixes: readonly string[]): boolean {
  const short = prefixes.some((prefix) => new RegExp(`(?<![0-9A-Za-z])${prefix}_[0-9A-Za-z]{10,}`).test(text));
  const found = short || holdsToken(text) || KNOWN.test(text) || (!NAMED.test(text) && isRandom(text));
  flush();
  return found;
}

/** True if letters, capitals and digits follow each other as they do in no word. */
function isRandom(text: string): boolean {
  return (text.match(/[0-9A-Za-z+/=_.~-]{24,}/g) ?? []).some((run) => {
    if (ID.test(run)) return false;
    const turns = run.match(/[a-z](?=[0-9A-Z])|[A-Z](?=[0-9a-z])|[0-9](?=[A-Za-z])/g)?.length ?? 0;
    return turns >= (/[0-9]/.test(run) ? 5 : run.length * 0.45);
  });
}

/** The parts of a list that somebody typed. */
export const words = (text: string) => text.split(/[\s,]+/).filter((word) => word !== "");

/** The browser keeps the last text that a pattern was tried on. */
function flush(): void {
  /x/.test("x");
}

export type Find =
  | { readonly kind: "no token" }
  | { readonly kind: "foreign" }
  | { readonly kind: "damaged" }
  | { readonly kind: "hint"; readonly hint: string }
  | { readonly kind: "id"; readonly id: string };

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/**
 * Looks for a token string in a text, here and now: shape, then checksum. What it returns holds no bit of the secret: the
 * hint, or the id in a JWT.
 */
export function findToken(text: string): Find {
  try {
    const jwt = /eyJ[\w-]{8,}\.([\w-]+)\.[\w-]*/.exec(text);
    if (jwt !== null) {
      const id = jtiOf(jwt[1]!);
      return id === undefined ? { kind: "foreign" } : { kind: "id", id };
    }
    const found = /[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{40,}/.exec(text)?.[0];
    if (found === undefined) return { kind: "no token" };
    const start = found.lastIndexOf("_") + 1;
    if (found.length - start !== 58) return { kind: "foreign" };
    const body = found.slice(0, -6);
    if (found.slice(-6) !== crcOf(body)) return { kind: "damaged" };
    return { kind: "hint", hint: Array.from(found.slice(0, start + 9)).join("") };
  } finally {
    flush();
  }
}

function jtiOf(payload: string): string | undefined {
  try {
    const { jti } = JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/"))) as { jti?: unknown };
    return typeof jti === "string" && /^tok_[0-9A-Za-z]{22}$/.test(jti) ? jti : undefined;
  } catch {
    return undefined;
  }
}

function crcOf(text: string): string {
  let crc = 0xffffffff;
  for (let i = 0; i < text.length; i++) {
    crc ^= text.charCodeAt(i);
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  let rest = (crc ^ 0xffffffff) >>> 0;
  let out = "";
  for (let i = 0; i < 6; i++) {
    out = DIGITS[rest % 62] + out;
    rest = Math.floor(rest / 62);
  }
  return out;
}
