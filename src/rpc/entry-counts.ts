import { type DescField, type DescMessage, getOption } from "@bufbuild/protobuf";
import { FieldMaskSchema } from "@bufbuild/protobuf/wkt";
import { field as fieldRules } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import type { FieldViolation } from "../domain/errors.ts";

/*
 * Counts the entries of lists and maps in a request before it is decoded, and stops at the first one too many. A decoder
 * makes an object of each entry: half a million of them would hold up everybody for half a second.
 */

/** The most entries and fields together for which the message has no bound. */
const MOST_OTHERS = 1000;
const DEEPEST = 64;

/** A field of a message, and the message inside it. */
interface Known {
  readonly path: string;
  /** The bound of a list or a map, if the message gives one. */
  readonly most: number | undefined;
  readonly kind: "list" | "map" | "other";
  readonly inner: Shape;
  /** Its JSON is a text that lists its entries. */
  readonly mask: boolean;
}

/** The fields of a message, by number and by both of their names. */
interface Shape {
  readonly byNumber: ReadonlyMap<number, Known>;
  readonly byName: ReadonlyMap<string, Known>;
}

const NO_FIELDS: Shape = { byNumber: new Map(), byName: new Map() };

const shapes = new WeakMap<DescMessage, Shape>();

function shapeOf(message: DescMessage): Shape {
  let shape = shapes.get(message);
  if (shape === undefined) {
    shape = makeShape(message, "", 0);
    shapes.set(message, shape);
  }
  return shape;
}

function makeShape(message: DescMessage, path: string, depth: number): Shape {
  // No request is as deep as this.
  if (depth > 8) return NO_FIELDS;
  const byNumber = new Map<number, Known>();
  const byName = new Map<string, Known>();
  for (const field of message.fields) {
    const name = `${path}${field.name}`;
    const inner = field.message === undefined ? NO_FIELDS : makeShape(field.message, `${name}.`, depth + 1);
    const kind = field.fieldKind === "list" || field.fieldKind === "map" ? field.fieldKind : "other";
    const mask = field.message?.typeName === FieldMaskSchema.typeName;
    const known = { path: name, most: bound(field), kind, inner, mask } as const;
    byNumber.set(field.number, known);
    for (const each of [field.name, field.jsonName]) byName.set(each, known);
  }
  return { byNumber, byName };
}

function bound(field: DescField): number | undefined {
  const { type } = getOption(field, fieldRules);
  // 0: no bound is given.
  if (field.fieldKind === "list" && type.case === "repeated") return Number(type.value.maxItems) || undefined;
  if (field.fieldKind === "map" && type.case === "map") return Number(type.value.maxPairs) || undefined;
  return undefined;
}

/** The entries that one request was seen to have. */
class Counts {
  readonly #seen = new Map<Known, number>();
  #others = 0;
  excess: FieldViolation | undefined;

  /** Counts one more entry of a field, undefined for an unknown one. True if that is one too many. */
  add(field: Known | undefined): boolean {
    if (field?.most === undefined) {
      if (++this.#others <= MOST_OTHERS) return false;
      this.excess = violation(field?.path ?? "request", MOST_OTHERS, "other");
      return true;
    }
    const seen = (this.#seen.get(field) ?? 0) + 1;
    this.#seen.set(field, seen);
    if (seen <= field.most) return false;
    this.excess = violation(field.path, field.most, field.kind);
    return true;
  }
}

/** In the words of the check of decoded requests. */
function violation(field: string, most: number, kind: Known["kind"]): FieldViolation {
  const of = kind === "map" ? `map must be at most ${most} entries` : `must contain no more than ${most} item(s)`;
  return { field, description: of };
}

// ---------------------------------------------------------------------------------------------------- binary

/** The first list or map of an encoded message that is longer than it may be. Malformed bytes are left to the decoder. */
export function overfull(message: DescMessage, bytes: Uint8Array): FieldViolation | undefined {
  const counts = new Counts();
  scan({ bytes, at: 0 }, bytes.length, shapeOf(message), counts, 0);
  return counts.excess;
}

interface Cursor {
  readonly bytes: Uint8Array;
  at: number;
}

/** Returns false at the end of what can be read, or of what may be. */
function scan(cursor: Cursor, end: number, shape: Shape, counts: Counts, depth: number): boolean {
  let groups = 0;
  while (cursor.at < end) {
    const tag = varint(cursor, end);
    if (tag % 8 === 3 && ++groups > DEEPEST) return false;
    if (tag % 8 === 4) groups--;
    const field = shape.byNumber.get(Math.floor(tag / 8));
    if (counts.add(field)) return false;
    const length = lengthOf(tag % 8, cursor, end);
    const next = cursor.at + length;
    if (!(next <= end)) return false;
    if (tag % 8 === 2 && field !== undefined && (field.inner !== NO_FIELDS || field.kind === "map")) {
      if (depth > DEEPEST || !scan(cursor, next, field.kind === "map" ? NO_FIELDS : field.inner, counts, depth + 1))
        return false;
    }
    cursor.at = next;
  }
  return true;
}

/** The bytes of a value behind its tag; NaN for a malformed one. A group's fields are counted like those around it. */
function lengthOf(wireType: number, cursor: Cursor, end: number): number {
  switch (wireType) {
    case 0:
      return varint(cursor, end) * 0;
    case 1:
      return 8;
    case 2:
      return varint(cursor, end);
    case 5:
      return 4;
    default:
      return wireType === 3 || wireType === 4 ? 0 : Number.NaN;
  }
}

function varint(cursor: Cursor, end: number): number {
  let value = 0;
  for (let shift = 1; shift <= 2 ** 63; shift *= 128) {
    if (cursor.at >= end) return Number.NaN;
    const byte = cursor.bytes[cursor.at++]!;
    value += (byte & 127) * shift;
    if (byte < 128) return value;
  }
  return Number.NaN;
}

// ---------------------------------------------------------------------------------------------------- JSON

/** An open object or array. */
interface Frame {
  /** The field whose list or map it is. */
  readonly field: Known | undefined;
  /** The message whose fields are its keys. */
  readonly shape: Shape;
  readonly array: boolean;
  entries: number;
  key: Known | undefined;
}

/** Like `overfull`, for a message as JSON. */
export function overfullJson(message: DescMessage, text: string): FieldViolation | undefined {
  const counts = new Counts();
  const frames: Frame[] = [];
  const isKey = (top: Frame | undefined) => top !== undefined && !top.array && top.field?.kind !== "map";
  for (let at = 0; at < text.length; at++) {
    const top = frames.at(-1);
    const character = text[at];
    // The first entry of a list or map; a comma comes before each other one.
    if (top !== undefined && top.entries === 0 && !/[\s,:\]}]/.test(character!) && counted(top, counts)) break;
    if (character === '"') {
      const end = endOfText(text, at);
      if (end < 0) break;
      if (top?.key?.mask === true && listed(text, at, end, top.key, counts)) break;
      if (isKey(top)) top!.key = end - at > 65 ? undefined : top!.shape.byName.get(text.slice(at + 1, end));
      at = end;
    } else if (character === "{" || character === "[") {
      if (frames.length > DEEPEST) break;
      frames.push(opened(top, character === "[", message));
    } else if (character === "}" || character === "]") frames.pop();
    else if (character === "," && top !== undefined) {
      if (counted(top, counts)) break;
      if (!top.array) top.key = undefined;
    }
  }
  return counts.excess;
}

function counted(top: Frame, counts: Counts): boolean {
  top.entries++;
  return counts.add(top.field);
}

function opened(top: Frame | undefined, array: boolean, message: DescMessage): Frame {
  const frame = { array, entries: 0, key: undefined };
  if (top === undefined) return { ...frame, field: undefined, shape: shapeOf(message) };
  // An entry of a list of messages is a message; each of its fields counts for itself.
  const field = top.array || top.field?.kind === "map" ? top.field : top.key;
  const isList = (field?.kind === "list" && array) || (field?.kind === "map" && top.field !== field);
  return { ...frame, field: isList ? field : undefined, shape: isList ? NO_FIELDS : (field?.inner ?? NO_FIELDS) };
}

/** The place of the quotation mark that ends a text; -1 if there is none. */
function endOfText(text: string, start: number): number {
  for (let at = start + 1; ; at++) {
    at = text.indexOf('"', at);
    if (at < 0) return -1;
    let escapes = 0;
    while (text[at - 1 - escapes] === "\\") escapes++;
    if (escapes % 2 === 0) return at;
  }
}

function listed(text: string, start: number, end: number, field: Known, counts: Counts): boolean {
  for (let at = start; at >= 0 && at < end; at = text.indexOf(",", at + 1)) if (counts.add(field)) return true;
  return false;
}
