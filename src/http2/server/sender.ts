import type { Reply } from "../unary/reply.ts";
import {
  DATA,
  END_STREAM,
  FRAME_HEADER,
  INITIAL_WINDOW,
  MAX_FRAME,
  MAX_WINDOW,
  writeFrameHeader,
  writeUint32,
} from "../wire/frame.ts";
import type { Output } from "./output.ts";
import type { Stream } from "./stream.ts";

const DEFAULT_TABLE = 4096;
/** RFC 7541 §6.3: a dynamic table size update to 0; our encoder keeps no table. */
const TABLE_SIZE_ZERO = 0x20;
const FLAGS = 4;

/**
 * Sends answers within what the peer lets us send: its two windows (RFC 9113 §5.2) and, as a third, how much its
 * socket has not taken yet. Call it only while the connection owns the output.
 */
export class Sender {
  /** The connection's window. */
  window = INITIAL_WINDOW;
  /** The window of a new stream. */
  initialWindow = INITIAL_WINDOW;
  /** The socket is behind: nothing goes out until it has drained. */
  heldBack = false;
  private readonly output: Output;
  private readonly sent: (stream: Stream) => void;
  private readonly waits: (stream: Stream) => void;
  private waiting: Stream[] = [];
  private tableSize = DEFAULT_TABLE;
  private updateDue = false;

  /** `sent` is called when an answer is out, `waits` when one must wait for the peer. */
  constructor(output: Output, sent: (stream: Stream) => void, waits: (stream: Stream) => void) {
    this.output = output;
    this.sent = sent;
    this.waits = waits;
  }

  send(stream: Stream, reply: Reply): void {
    const size = reply.dataLength;
    if (size > this.window || size > stream.sendWindow || size > MAX_FRAME || this.heldBack || this.updateDue) {
      this.sendSlowly(stream, reply);
      return;
    }
    if (stream.head.method === "HEAD") {
      this.sendSlowly(stream, reply);
      return;
    }
    const frames = reply.frames;
    const at = this.output.room(frames.length);
    const bytes = this.output.bytes;
    bytes.set(frames, at);
    writeUint32(bytes, at + 5, stream.id);
    if (reply.dataAt !== 0) writeUint32(bytes, at + reply.dataAt + 5, stream.id);
    if (reply.trailersAt !== 0) writeUint32(bytes, at + reply.trailersAt + 5, stream.id);
    this.window -= size;
    this.sent(stream);
  }

  /** SETTINGS_HEADER_TABLE_SIZE: our next header block, whichever it is, must say so when it was lowered (RFC 7541 §4.2). */
  setTableSize(size: number): void {
    if (size < this.tableSize) this.updateDue = true;
    this.tableSize = size;
  }

  /** Gives the connection's window more; false when it would exceed 2^31-1. */
  widen(octets: number): boolean {
    this.window += octets;
    return this.window <= MAX_WINDOW;
  }

  /** Sends what may go now, oldest answer first. */
  pump(): void {
    if (this.waiting.length === 0 || this.heldBack) return;
    const waiting = this.waiting;
    this.waiting = [];
    for (const stream of waiting) {
      if (!stream.done && !this.advance(stream, stream.reply!)) this.waiting.push(stream);
    }
  }

  private sendSlowly(stream: Stream, reply: Reply): void {
    stream.sent = -1;
    if (this.advance(stream, reply)) return;
    stream.reply = reply;
    this.waiting.push(stream);
    this.waits(stream);
  }

  /** Sends as much of the answer as may go; true when all of it went. */
  private advance(stream: Stream, reply: Reply): boolean {
    if (this.heldBack) return false;
    const bodiless = stream.head.method === "HEAD";
    if (stream.sent < 0) {
      this.block(reply.frames, 0, reply.dataAt || reply.trailersAt || reply.frames.length, stream.id, bodiless);
      stream.sent = 0;
    }
    if (!bodiless) {
      this.body(stream, reply);
      if (stream.sent < reply.dataLength) return false;
      if (reply.trailersAt !== 0) this.block(reply.frames, reply.trailersAt, reply.frames.length, stream.id, false);
    }
    this.sent(stream);
    return true;
  }

  private body(stream: Stream, reply: Reply): void {
    while (stream.sent < reply.dataLength && !this.heldBack) {
      const left = reply.dataLength - stream.sent;
      const size = Math.min(left, this.window, stream.sendWindow, MAX_FRAME);
      if (size <= 0) return;
      const ends = size === left && reply.trailersAt === 0;
      const at = this.output.frame(size, DATA, ends ? END_STREAM : 0, stream.id);
      this.output.bytes.set(reply.body.subarray(stream.sent, stream.sent + size), at);
      stream.sent += size;
      stream.sendWindow -= size;
      this.window -= size;
    }
  }

  /** Writes the HEADERS frame frames[start, end), opening it with the table size update when one is due. */
  private block(frames: Buffer, start: number, end: number, id: number, ends: boolean): void {
    const extra = this.updateDue ? 1 : 0;
    this.updateDue = false;
    const length = end - start - FRAME_HEADER + extra;
    const at = this.output.room(FRAME_HEADER + length);
    const bytes = this.output.bytes;
    const flags = frames[start + FLAGS]! | (ends ? END_STREAM : 0);
    writeFrameHeader(bytes, at, length, frames[start + 3]!, flags, id);
    if (extra === 1) bytes[at + FRAME_HEADER] = TABLE_SIZE_ZERO;
    frames.copy(bytes, at + FRAME_HEADER + extra, start + FRAME_HEADER, end);
  }
}
