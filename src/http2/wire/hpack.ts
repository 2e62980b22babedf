import { type Field, newField, STATIC_FIELDS } from "./field.ts";
import { decodeHuffman, huffmanBound } from "./huffman.ts";

/** A block that does not decode: a connection error of type COMPRESSION_ERROR (RFC 9113 §4.3). */
export class HpackError extends Error {}

/** Receives the fields of a block in their order. */
export interface FieldSink {
  field(field: Field): void;
}

const STATIC_COUNT = STATIC_FIELDS.length - 1;
const PATH_NAME_INDEX = 4;
const LONGEST_MEMO = 255;
const scratch = Buffer.allocUnsafeSlow(32 * 1024);

/**
 * Decodes header blocks (RFC 7541). One decoder serves one direction of one connection and sees every block of it in
 * order, the refused ones too, or its table would no longer be the peer's.
 */
export class HpackDecoder {
  /** The largest size of the table: our SETTINGS_HEADER_TABLE_SIZE, in octets as RFC 7541 §4.1 counts them. */
  readonly limit: number;
  // The dynamic table: a ring whose newest element is before `head`. 32 octets are the least an element weighs.
  private readonly ring: (Field | undefined)[];
  private readonly mask: number;
  private head = 0;
  private count = 0;
  private size = 0;
  private capacity: number;
  private at = 0;
  // The string read last: octets [from, from + length) of `text`.
  private text: Buffer = scratch;
  private from = 0;
  private length = 0;
  // Many clients never index `:path`, so its raw literal is remembered with the field it decoded to.
  private memo: Buffer | undefined;
  private memoLength = 0;
  private memoField: Field | undefined;

  constructor(limit = 4096) {
    this.limit = limit;
    this.capacity = limit;
    let slots = 1;
    while (slots < limit / 32 + 1) slots <<= 1;
    this.ring = new Array<Field | undefined>(slots).fill(undefined);
    this.mask = slots - 1;
  }

  /** Hands the fields of the block bytes[start, end) to the sink. Throws HpackError, after which the decoder is spent. */
  decode(bytes: Buffer, start: number, end: number, sink: FieldSink): void {
    this.at = start;
    let updatesAllowed = true;
    while (this.at < end) {
      const first = bytes[this.at]!;
      if (first & 0x80) sink.field(this.indexed(this.integer(bytes, end, 0x7f)));
      else if (first & 0x40) {
        const field = this.literal(bytes, end, this.integer(bytes, end, 0x3f));
        this.insert(field);
        sink.field(field);
      } else if (first & 0x20) {
        const capacity = this.integer(bytes, end, 0x1f);
        if (!updatesAllowed || capacity > this.limit) throw new HpackError("dynamic table size update");
        this.capacity = capacity;
        this.evict(capacity);
        continue;
      } else {
        const index = this.integer(bytes, end, 0x0f);
        sink.field(index === PATH_NAME_INDEX ? this.path(bytes, end) : this.literal(bytes, end, index));
      }
      updatesAllowed = false;
    }
  }

  private insert(field: Field): void {
    if (field.size > this.capacity) {
      this.evict(0);
      return;
    }
    this.evict(this.capacity - field.size);
    this.ring[this.head] = field;
    this.head = (this.head + 1) & this.mask;
    this.count++;
    this.size += field.size;
  }

  private evict(target: number): void {
    while (this.size > target) {
      const oldest = (this.head - this.count) & this.mask;
      this.size -= this.ring[oldest]!.size;
      this.ring[oldest] = undefined;
      this.count--;
    }
  }

  private indexed(index: number): Field {
    if (index <= STATIC_COUNT) {
      if (index === 0) throw new HpackError("index 0");
      return STATIC_FIELDS[index]!;
    }
    const age = index - STATIC_COUNT;
    if (age > this.count) throw new HpackError("index beyond the table");
    return this.ring[(this.head - age) & this.mask]!;
  }

  /** RFC 7541 §5.1. Four continuation octets are enough for every number that can occur here. */
  private integer(bytes: Buffer, end: number, mask: number): number {
    if (this.at >= end) throw new HpackError("truncated");
    let value = bytes[this.at++]! & mask;
    if (value < mask) return value;
    for (let shift = 0; shift <= 21; shift += 7) {
      if (this.at >= end) throw new HpackError("truncated integer");
      const octet = bytes[this.at++]!;
      value += (octet & 0x7f) << shift;
      if (octet < 0x80) return value;
    }
    throw new HpackError("integer too large");
  }

  /** RFC 7541 §5.2: leaves the decoded octets in text, from and length. */
  private string(bytes: Buffer, end: number): void {
    const coded = this.at < end && (bytes[this.at]! & 0x80) !== 0;
    const length = this.integer(bytes, end, 0x7f);
    const start = this.at;
    if (length > end - start) throw new HpackError("truncated string");
    this.at = start + length;
    if (!coded) {
      this.text = bytes;
      this.from = start;
      this.length = length;
      return;
    }
    const bound = huffmanBound(length);
    this.text = bound <= scratch.length ? scratch : Buffer.allocUnsafe(bound);
    this.from = 0;
    this.length = decodeHuffman(bytes, start, this.at, this.text);
    if (this.length < 0) throw new HpackError("huffman");
  }

  private literal(bytes: Buffer, end: number, nameIndex: number): Field {
    let named: Field | undefined;
    let name = "";
    if (nameIndex !== 0) named = this.indexed(nameIndex);
    else {
      this.string(bytes, end);
      name = this.text.toString("latin1", this.from, this.from + this.length);
    }
    this.string(bytes, end);
    return newField(named ?? name, this.text, this.from, this.length);
  }

  private path(bytes: Buffer, end: number): Field {
    const start = this.at;
    const memo = this.memo;
    const length = this.memoLength;
    if (memo !== undefined && length > 0 && length <= end - start) {
      let same = 0;
      while (same < length && memo[same] === bytes[start + same]) same++;
      if (same === length) {
        this.at = start + length;
        return this.memoField!;
      }
    }
    const field = this.literal(bytes, end, PATH_NAME_INDEX);
    if (this.at - start <= LONGEST_MEMO) {
      this.memo ??= Buffer.allocUnsafe(LONGEST_MEMO);
      bytes.copy(this.memo, 0, start, this.at);
      this.memoLength = this.at - start;
      this.memoField = field;
    }
    return field;
  }
}
