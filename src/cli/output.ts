import { createMethodSerializationLookup } from "@connectrpc/connect/protocol";
import { visible } from "../domain/visible.ts";
import { type Effect, EffectMode } from "../gen/sallyport/v1/effect_pb.ts";
import { formatWait, relative, toMilliseconds } from "./durations.ts";

type Lookup = typeof createMethodSerializationLookup;
/** A method of a generated service: `TokenAdmin.method.createToken`. */
export type Method = Parameters<Lookup>[0];
/** Any protobuf message. */
export type Message = Parameters<ReturnType<ReturnType<Lookup>["getO"]>["serialize"]>[0];
type Stamp = { seconds: bigint; nanos: number };

const NO_LIMITS = { readMaxBytes: 0xffffffff, writeMaxBytes: 0xffffffff };
/** A token string: a prefix, then 58 base62 characters. It counts as found even if a few are missing. */
const TOKEN_STRING = /[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{40,}/g;
/** A word with dots, matched as a whole, so that the cost is its length. It may hold a JWT. */
const DOTTED = /[\w-]+(?:\.[\w-]*)*/g;
const JWT = /^eyJ[\w-]{8,}\.[\w-]+\.[\w-]*/;

/** Removes everything in the form of a token string. Every line for stderr passes through here. */
export function withoutSecrets(text: string): string {
  return text.replace(TOKEN_STRING, "[token string]").replace(DOTTED, (word) => {
    const at = word.indexOf("eyJ");
    return at < 0 ? word : word.slice(0, at) + word.slice(at).replace(JWT, "[token string]");
  });
}

/** A response as protobuf JSON for programs. It writes empty lists, false and 0, so that `jq` finds them. */
export function json(method: Method, response: Message): string {
  const codec = createMethodSerializationLookup(method, undefined, { alwaysEmitImplicit: true }, NO_LIMITS).getO(false);
  return JSON.stringify(JSON.parse(Buffer.from(codec.serialize(response)).toString()), undefined, 2);
}

/** Aligned columns under their titles. An empty cell is `-`, and the last column is not padded. */
export function table(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [titles, ...rows.map((row) => row.map((cell) => (cell === "" ? "-" : visible(cell))))];
  const widths = titles.map((_, column) => Math.max(...lines.map((line) => lengthOf(line[column] ?? ""))));
  return lines
    .map((line) =>
      line
        .map((cell, column) => pad(cell, widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** A record, one fact a line. Facts without a value are omitted. */
export function record(facts: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...facts.map(([name]) => name.length));
  return facts
    .filter(([, value]) => value !== "")
    .map(([name, value]) => `${name.padEnd(width)}  ${visible(value)}`)
    .join("\n");
}

/** Parts of an answer with an empty line between them. Empty parts are omitted. */
export function paragraphs(...parts: readonly string[]): string {
  return parts.filter((part) => part !== "").join("\n\n");
}

/** The name of an enum's value without its prefix: `nameOf(TokenState, 1)` is ACTIVE. Unknown values are numbers. */
export function nameOf(values: Readonly<Record<string, number>>, value: number): string {
  return Object.entries(values).find(([, number]) => number === value)?.[0] ?? String(value);
}

/** A time for a table: "in 89d"; the empty string if there is none. */
export function fromNow(stamp: Stamp | undefined, now: number): string {
  return stamp === undefined ? "" : relative(toMilliseconds(stamp), now);
}

/** A time for a record: "2027-01-31T12:00:00Z (in 89d)"; the empty string if there is none. */
export function timeAndDistance(stamp: Stamp | undefined, now: number): string {
  return stamp === undefined ? "" : `${timeOf(stamp)} (${fromNow(stamp, now)})`;
}

/** Annotations in one line: "a=1, b=2". */
export function annotationsOf(annotations: Readonly<Record<string, string>>): string {
  return Object.entries(annotations)
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");
}

/** Describes an Effect in a sentence: "in force everywhere after 12 ms (ACKED), position 42". */
export function effectOf(effect: Effect | undefined): string {
  if (effect === undefined) return "";
  const mode = `(${nameOf(EffectMode, effect.mode)}), position ${effect.position}`;
  if (effect.mode === EffectMode.ACCEPTED) {
    const by = effect.effectiveBy === undefined ? "" : ` by ${timeOf(effect.effectiveBy)} at the latest`;
    return `durable, in force everywhere${by} ${mode}`;
  }
  const { acknowledged, validators } = effect;
  const by = validators > 0 ? `, acknowledged by ${acknowledged} of ${validators} instances` : "";
  return `in force everywhere after ${formatWait(effect.waited === undefined ? 0 : toMilliseconds(effect.waited))} ${mode}${by}`;
}

/** A time for a log: "2027-01-31T12:00:00Z". */
export function timeOf(stamp: Stamp): string {
  return new Date(toMilliseconds(stamp)).toISOString().replace(/\.\d{3}Z$/, "Z");
}

function pad(cell: string, width: number): string {
  return cell + " ".repeat(width - lengthOf(cell));
}

function lengthOf(text: string): number {
  return [...text].length;
}
