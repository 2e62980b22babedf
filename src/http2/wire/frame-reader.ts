import { FRAME_HEADER, MAX_FRAME, readUint31 } from "./frame.ts";

/** Gets whole frames, in order. `bytes` may be a buffer that the next read overwrites. */
export interface FrameSink {
  /** The payload is bytes[start, end). Returns false to stop reading for good. */
  frame(type: number, flags: number, id: number, bytes: Buffer, start: number, end: number): boolean;
  /** A length above SETTINGS_MAX_FRAME_SIZE; reading has stopped. */
  frameTooLong(): void;
}

const none: Buffer = Buffer.alloc(0);

/**
 * Cuts the octets of a connection into frames, over any split. A frame that lies whole in one read is handed on in
 * place; only a frame that straddles reads is copied, into a buffer of its own size that is let go with the frame.
 */
export class FrameReader {
  private partial: Buffer = none;
  private have = 0;

  /** Reads bytes[start, end). Returns false once the sink has stopped it or a frame was too long. */
  read(bytes: Buffer, start: number, end: number, sink: FrameSink): boolean {
    let at = start;
    if (this.have > 0) {
      at = this.resume(bytes, start, end, sink);
      if (at < 0) return false;
    }
    while (end - at >= FRAME_HEADER) {
      const length = (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!;
      if (length > MAX_FRAME) {
        sink.frameTooLong();
        return false;
      }
      const payload = at + FRAME_HEADER;
      if (length > end - payload) break;
      const next = payload + length;
      if (!sink.frame(bytes[at + 3]!, bytes[at + 4]!, readUint31(bytes, at + 5), bytes, payload, next)) return false;
      at = next;
    }
    return at === end || this.keep(bytes, at, end, sink);
  }

  /** Starts a partial frame with what is left of this read. */
  private keep(bytes: Buffer, at: number, end: number, sink: FrameSink): boolean {
    this.partial = Buffer.allocUnsafe(FRAME_HEADER);
    return this.fill(bytes, at, end, sink) >= 0;
  }

  /** Completes the partial frame, hands it on, and returns where the next one starts; -1 to stop. */
  private resume(bytes: Buffer, start: number, end: number, sink: FrameSink): number {
    const at = this.fill(bytes, start, end, sink);
    if (at < 0 || this.have < this.partial.length) return at;
    const frame = this.partial;
    this.partial = none;
    this.have = 0;
    const go = sink.frame(frame[3]!, frame[4]!, readUint31(frame, 5), frame, FRAME_HEADER, frame.length);
    return go ? at : -1;
  }

  private fill(bytes: Buffer, start: number, end: number, sink: FrameSink): number {
    let at = start;
    if (this.have < FRAME_HEADER) {
      at += this.take(bytes, at, end, FRAME_HEADER);
      if (this.have < FRAME_HEADER) return at;
      const header = this.partial;
      const length = (header[0]! << 16) | (header[1]! << 8) | header[2]!;
      if (length > MAX_FRAME) {
        sink.frameTooLong();
        return -1;
      }
      this.partial = Buffer.allocUnsafe(FRAME_HEADER + length);
      this.partial.set(header.subarray(0, FRAME_HEADER));
    }
    return at + this.take(bytes, at, end, this.partial.length);
  }

  private take(bytes: Buffer, at: number, end: number, until: number): number {
    const count = Math.min(until - this.have, end - at);
    bytes.copy(this.partial, this.have, at, at + count);
    this.have += count;
    return count;
  }
}
