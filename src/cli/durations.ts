import { UNITS } from "../domain/duration.ts";

const RFC3339 = /^\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2}))?$/;

/** The form that every help text and message names. */
export const TIME_FORM = 'a time such as "2027-01-31T12:00:00Z" or a date such as "2027-01-31" (UTC)';

/** Reads an RFC 3339 time or a date. Returns milliseconds since 1970; undefined for anything else. */
export function parseTime(text: string): number | undefined {
  if (!RFC3339.test(text)) return undefined;
  const milliseconds = Date.parse(text.replace(" ", "T").toUpperCase());
  const day = text.slice(0, 10);
  const midnight = Date.parse(day);
  // Date reads February 30 as March 2, and 24:00 as the next day.
  if (Number.isNaN(milliseconds) || new Date(midnight).toISOString().slice(0, 10) !== day) return undefined;
  return text.slice(11, 13) === "24" ? undefined : milliseconds;
}

/** Converts milliseconds to the seconds and nanoseconds of a protobuf Duration or Timestamp. */
export function toSeconds(milliseconds: number): { seconds: bigint; nanos: number } {
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds: BigInt(seconds), nanos: Math.round(milliseconds - seconds * 1000) * 1_000_000 };
}

/** Converts a value that may be absent. */
export function toSecondsIfAny(milliseconds: number | undefined) {
  return milliseconds === undefined ? undefined : toSeconds(milliseconds);
}

/** A protobuf Duration or Timestamp in milliseconds. */
export function toMilliseconds(value: { seconds: bigint; nanos: number }): number {
  return Number(value.seconds) * 1000 + value.nanos / 1_000_000;
}

/** A short wait for people: "12 ms", "1.5 s". */
export function formatWait(milliseconds: number): string {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${Math.round(milliseconds / 100) / 10} s`;
}

/** The distance of a time from now, in its largest whole unit: "in 89d", "3h ago", "now". */
export function relative(time: number, now: number): string {
  const distance = Math.abs(time - now);
  if (distance < UNITS.s) return "now";
  const unit = (["d", "h", "m", "s"] as const).find((candidate) => distance >= UNITS[candidate]) ?? "s";
  const span = `${Math.floor(distance / UNITS[unit])}${unit}`;
  return time > now ? `in ${span}` : `${span} ago`;
}
