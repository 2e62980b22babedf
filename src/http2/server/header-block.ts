import type { Head, HeadReader } from "../unary/head.ts";
import {
  END_HEADERS,
  END_STREAM,
  ENHANCE_YOUR_CALM,
  FRAME_SIZE_ERROR,
  HAS_PRIORITY,
  PADDED,
  PROTOCOL_ERROR,
  readUint31,
} from "../wire/frame.ts";
import { HpackDecoder, HpackError } from "../wire/hpack.ts";
import type { Limits } from "./limits.ts";

const PRIORITY_FIELDS = 5;
/** List octets per octet of block that need no explanation: literals at Huffman's best and 32 octets per field. */
const EXPLAINED = 4;

/** Puts a block together from HEADERS and its CONTINUATIONs and decodes it, in place where it came in one frame. */
export class HeaderBlock {
  /** The stream of an unfinished block; 0 between blocks. After `isWhole` it is the stream of the finished one. */
  id = 0;
  endsStream = false;
  dependsOnItself = false;
  isWhole = false;
  /** List octets of the block decoded last beyond what the list limit and the block's size explain. */
  amplification = 0;
  private readonly reader: HeadReader;
  private readonly limits: Limits;
  private readonly decoder = new HpackDecoder();
  private bytes: Buffer = Buffer.alloc(0);
  private start = 0;
  private end = 0;
  private pieces: Buffer[] = [];

  constructor(reader: HeadReader, limits: Limits) {
    this.reader = reader;
    this.limits = limits;
  }

  /** Octets of the finished block. */
  get length(): number {
    return this.end - this.start;
  }

  /** True if the block decoded last held pseudo-headers. */
  get opensStream(): boolean {
    return this.reader.opensStream;
  }

  /** Takes a HEADERS frame; returns the code of a connection error (RFC 9113 §6.2). */
  open(flags: number, id: number, bytes: Buffer, start: number, end: number): number | undefined {
    let at = start;
    let padding = 0;
    this.dependsOnItself = false;
    if ((flags & PADDED) !== 0) {
      if (at === end) return FRAME_SIZE_ERROR;
      padding = bytes[at++]!;
    }
    if ((flags & HAS_PRIORITY) !== 0) {
      if (end - at < PRIORITY_FIELDS) return FRAME_SIZE_ERROR;
      this.dependsOnItself = readUint31(bytes, at) === id;
      at += PRIORITY_FIELDS;
    }
    if (padding > end - at) return PROTOCOL_ERROR;
    this.id = id;
    this.endsStream = (flags & END_STREAM) !== 0;
    this.isWhole = (flags & END_HEADERS) !== 0;
    this.bytes = bytes;
    this.start = at;
    this.end = end - padding;
    if (!this.isWhole) this.pieces = [Buffer.from(bytes.subarray(at, this.end))];
    return undefined;
  }

  /** Takes a CONTINUATION frame; returns the code of a connection error. */
  append(flags: number, bytes: Buffer, start: number, end: number): number | undefined {
    if (this.pieces.length > this.limits.maxContinuations) return ENHANCE_YOUR_CALM;
    this.pieces.push(Buffer.from(bytes.subarray(start, end)));
    if ((flags & END_HEADERS) === 0) return undefined;
    this.isWhole = true;
    this.bytes = Buffer.concat(this.pieces);
    this.start = 0;
    this.end = this.bytes.length;
    this.pieces = [];
    return undefined;
  }

  /** Decodes the finished block, oversized ones too: the table must stay the peer's. A string tells what is wrong with it. */
  decode(kind: "request" | "trailers"): Head | string {
    const { reader, limits } = this;
    this.id = 0;
    reader.start(kind);
    try {
      this.decoder.decode(this.bytes, this.start, this.end, reader);
    } catch (error) {
      if (error instanceof HpackError) return error.message;
      throw error;
    }
    const head = reader.finish();
    const length = this.end - this.start;
    this.amplification = Math.max(0, reader.listSize - limits.maxHeaderList - EXPLAINED * length);
    if (length > limits.maxHeaderList) head.oversized = true;
    return head;
  }
}
