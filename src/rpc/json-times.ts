import type { DescMessage } from "@bufbuild/protobuf";
import { TimestampSchema } from "@bufbuild/protobuf/wkt";

const DATE = /^([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2})/;
// The signs of an impossible time: a day that not every month has, or an hour that no day has.
const SUSPECT = /-(?:29|3[0-9])[Tt]|[Tt]24:/;

/** True if a text begins with a day of the calendar and an hour of that day. */
function isPossible(text: string): boolean {
  const found = DATE.exec(text);
  if (found === null) return true; // the decoder refuses it
  const [year, month, day, hour] = found.slice(1).map(Number) as [number, number, number, number];
  return day <= new Date(Date.UTC(year, month, 0)).getUTCDate() && hour < 24;
}

/**
 * Decodes the JSON of a message as UTF-8, and throws if it holds an impossible time, because protobuf's decoder reads
 * February 30 as March 2. It throws like that decoder does for other values.
 */
export function jsonTextOf(schema: DescMessage): { decode(bytes: Uint8Array): string } {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  return {
    decode(bytes) {
      const text = utf8.decode(bytes);
      if (SUSPECT.test(text)) look(schema, JSON.parse(text));
      return text;
    },
  };
}

function look(schema: DescMessage, json: unknown): void {
  if (typeof json !== "object" || json === null) return;
  const values = json as Readonly<Record<string, unknown>>;
  for (const field of schema.fields) {
    const value = values[field.jsonName] ?? values[field.name];
    if (field.message === undefined || value === undefined || value === null) continue;
    const each = field.fieldKind === "message" ? [value] : Object.values(value as object);
    for (const one of each) {
      if (field.message.typeName !== TimestampSchema.typeName) look(field.message, one);
      else if (typeof one === "string" && !isPossible(one))
        throw new Error(`cannot decode ${field.toString()} from JSON: no such time`);
    }
  }
}
