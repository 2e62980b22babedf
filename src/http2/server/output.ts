import { FRAME_HEADER, writeFrameHeader } from "../wire/frame.ts";

/** The part of a socket that a connection needs. */
export interface Pipe {
  readonly destroyed: boolean;
  readonly writableLength: number;
  write(bytes: Uint8Array): boolean;
  end(): unknown;
  destroy(): unknown;
  pause(): unknown;
  resume(): unknown;
}

/** The connection that fills the output. */
export interface OutputOwner {
  readonly pipe: Pipe;
  /** Encrypted sockets may hold on to what they were given after `writableLength` is 0 again. */
  readonly mustCopy: boolean;
  /** The socket kept what was written to it: `queued` octets wait there now. */
  queued(queued: number): void;
}

const SIZE = 65_536;

/**
 * The buffer in which all connections of a server gather what one event makes them say, for one write. It belongs to
 * one connection from `begin` to `end`, and only that connection may fill it: whoever else has something to say keeps
 * it until the buffer is its own. That is what keeps an answer from going out on another caller's socket.
 */
export class Output {
  bytes: Buffer = Buffer.allocUnsafeSlow(SIZE);
  private length = 0;
  private holder: OutputOwner | undefined;

  get owner(): OutputOwner | undefined {
    return this.holder;
  }

  begin(owner: OutputOwner): void {
    if (this.holder !== undefined) throw new Error("the output belongs to another connection");
    this.holder = owner;
  }

  end(): void {
    this.flush();
    this.holder = undefined;
  }

  /** Reserves octets, at most 64 KiB, and returns where they start in `bytes`, which may be another buffer than before. */
  room(octets: number): number {
    if (this.length + octets > SIZE) this.flush();
    const at = this.length;
    this.length += octets;
    return at;
  }

  /** Reserves a frame with its header written; returns where its payload starts. */
  frame(length: number, type: number, flags: number, id: number): number {
    const at = this.room(FRAME_HEADER + length);
    writeFrameHeader(this.bytes, at, length, type, flags, id);
    return at + FRAME_HEADER;
  }

  flush(): void {
    const length = this.length;
    if (length === 0) return;
    this.length = 0;
    const owner = this.holder!;
    const pipe = owner.pipe;
    if (pipe.destroyed) return;
    // A socket that is behind, and one that may hold on to its input, gets a copy of the right size.
    const lend = !owner.mustCopy && pipe.writableLength === 0;
    const part = this.bytes.subarray(0, length);
    pipe.write(lend ? part : Buffer.from(part));
    const queued = pipe.writableLength;
    if (queued === 0) return;
    if (lend) this.bytes = Buffer.allocUnsafeSlow(SIZE);
    owner.queued(queued);
  }
}
