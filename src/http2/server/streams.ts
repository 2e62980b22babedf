import { refusal } from "../unary/exchange.ts";
import type { Head } from "../unary/head.ts";
import type { Reply } from "../unary/reply.ts";
import * as frames from "../wire/frame.ts";
import type { SettingsTarget } from "../wire/settings.ts";
import { Calls, type CallsLink } from "./calls.ts";
import { HeaderBlock } from "./header-block.ts";
import type { Lifetime } from "./lifetime.ts";
import { weightOfHead } from "./limits.ts";
import { Sender } from "./sender.ts";
import { Stream, type StreamOwner } from "./stream.ts";

const NO_BYTES: Buffer = Buffer.alloc(0);
/** The cost of a stream that an untrusted peer wastes. */
const WASTE = 0.5;

export interface StreamsLink extends CallsLink, StreamOwner {
  readonly settings: { readonly acknowledged: boolean };
  /** Charges header lists that are larger than their blocks explain; false where that ended the connection. */
  affords(amplification: number): boolean;
}

/** The streams of one connection (RFC 9113 §5): requests come in, handlers are run, answers go out. */
export class Streams implements SettingsTarget {
  readonly sender: Sender;
  /** The highest stream id seen: everything up to it that is not open is closed. */
  lastId = 0;
  /** The highest stream id that was or will be answered; what GOAWAY names. */
  lastServed = 0;
  private readonly connection: StreamsLink;
  private readonly lifetime: Lifetime;
  private readonly block: HeaderBlock;
  private readonly calls: Calls;
  private readonly open = new Map<number, Stream>();
  // A request that is whole within one read never enters the map: the stream opened last waits here for its DATA.
  private newest: Stream | undefined;
  /** Parked in this read; most of them are answered before it ends and need no clock. */
  private unwatched: Stream[] = [];
  /** Octets that may still come on streams we ended first; they cross our frames on the wire and are not held against the peer. */
  private strays = 0;

  constructor(connection: StreamsLink, lifetime: Lifetime) {
    this.connection = connection;
    this.lifetime = lifetime;
    this.block = new HeaderBlock(connection.server.headReader, connection.server.limits);
    this.calls = new Calls(connection, this);
    this.sender = new Sender(
      connection.output,
      (stream) => this.sent(stream),
      (stream) => this.waits(stream),
    );
  }

  get isEmpty(): boolean {
    return this.open.size === 0 && this.newest === undefined;
  }

  get size(): number {
    return this.open.size + (this.newest === undefined ? 0 : 1);
  }

  /** A header block is incomplete: only its CONTINUATION may come. */
  get inBlock(): boolean {
    return this.block.id !== 0;
  }

  get blockId(): number {
    return this.block.id;
  }

  /** Makes the newest stream one of the open ones. */
  park(): void {
    const stream = this.newest;
    if (stream === undefined) return;
    this.newest = undefined;
    this.open.set(stream.id, stream);
    this.unwatched.push(stream);
    if (this.hold(stream, weightOfHead(stream.head.listSize))) return;
    stream.head.fields.length = 0;
    this.calls.giveUp(stream, "overloaded");
  }

  /** Counts what a stream that stays open makes us keep; false where the listener's budget does not hold it. */
  private hold(stream: Stream, octets: number): boolean {
    const { budget } = this.connection.server;
    if (!(stream.receiving ? budget.takeWaiting(octets) : budget.take(octets))) return false;
    stream.held += octets;
    return true;
  }

  /** The end of a read: what is still open now has its deadline enforced. */
  settle(): void {
    this.park();
    if (this.unwatched.length === 0) return;
    for (const stream of this.unwatched) this.calls.watch(stream);
    this.unwatched = [];
  }

  headers(flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    if ((id & 1) === 0) {
      this.connection.fail(frames.PROTOCOL_ERROR, "even stream id");
      return;
    }
    const fault = this.block.open(flags, id, bytes, start, end);
    if (fault !== undefined) this.connection.fail(fault, "HEADERS");
    else if (this.block.isWhole) this.blockDone();
  }

  continuation(flags: number, bytes: Buffer, start: number, end: number): void {
    if (!this.inBlock) {
      this.connection.fail(frames.PROTOCOL_ERROR, "unexpected CONTINUATION");
      return;
    }
    const fault = this.block.append(flags, bytes, start, end);
    if (fault !== undefined) this.connection.fail(fault, "CONTINUATION");
    else if (this.block.isWhole) this.blockDone();
  }

  data(flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    const stream = this.find(id);
    if (stream === undefined) {
      if (this.isIdle(id)) this.connection.fail(frames.PROTOCOL_ERROR, "DATA on an idle stream");
      else this.stray(id, end - start);
      return;
    }
    if (!stream.receiving) {
      if (this.connection.spend(1)) this.fail(id, frames.STREAM_CLOSED);
      return;
    }
    let from = start;
    let to = end;
    if ((flags & frames.PADDED) !== 0) {
      const padding = end > start ? bytes[start]! + 1 : 1;
      if (padding > end - start) {
        this.connection.fail(frames.PROTOCOL_ERROR, "padding");
        return;
      }
      from++;
      to -= padding - 1;
      stream.padding += padding;
    }
    const ends = (flags & frames.END_STREAM) !== 0;
    if (from === to && !ends && !this.connection.spend(1)) return;
    stream.received += end - start;
    if (stream.received > this.connection.server.initialWindow) this.fail(id, frames.FLOW_CONTROL_ERROR);
    else this.calls.take(stream, ends, bytes, from, to);
  }

  /** RST_STREAM from the peer. */
  reset(id: number): void {
    if (id === 0 || this.isIdle(id)) {
      this.connection.fail(frames.PROTOCOL_ERROR, "RST_STREAM on an idle stream");
      return;
    }
    // A proxy's clients cancel as they like: from a trusted peer it costs nothing but the work that was begun.
    if (!this.connection.trusted && !this.connection.spend(WASTE)) return;
    const stream = this.find(id);
    if (stream === undefined) return;
    this.connection.server.stats.cancelled++;
    this.remove(stream, "abandoned");
  }

  /** A stream error (RFC 9113 §5.4.2). */
  fail(id: number, code: number): void {
    const at = this.connection.output.frame(4, frames.RST_STREAM, 0, id);
    frames.writeUint32(this.connection.output.bytes, at, code);
    const stream = this.find(id);
    if (stream !== undefined) {
      this.allowStrays();
      this.remove(stream, "abandoned");
    }
  }

  /** WINDOW_UPDATE on a stream. */
  widen(id: number, octets: number): void {
    if (this.isIdle(id)) {
      this.connection.fail(frames.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream");
      return;
    }
    const stream = this.find(id);
    if (stream === undefined) return;
    stream.sendWindow += octets;
    if (octets === 0) this.fail(id, frames.PROTOCOL_ERROR);
    else if (stream.sendWindow > frames.MAX_WINDOW) this.fail(id, frames.FLOW_CONTROL_ERROR);
    else if (stream.reply !== undefined) this.sender.pump();
  }

  setInitialWindow(octets: number): boolean {
    const more = octets - this.sender.initialWindow;
    this.sender.initialWindow = octets;
    for (const stream of this.open.values()) {
      stream.sendWindow += more;
      if (stream.sendWindow > frames.MAX_WINDOW) return false;
    }
    return true;
  }

  setTableSize(octets: number): void {
    this.sender.setTableSize(octets);
  }

  /** Sends the answer of a stream that has none yet. The connection owns the output. */
  send(stream: Stream, reply: Reply): void {
    stream.answered = true;
    this.sender.send(stream, reply);
  }

  /** Nobody waits for any answer any more. */
  abandonAll(): void {
    if (this.newest !== undefined) this.remove(this.newest, "abandoned");
    for (const stream of this.open.values()) this.remove(stream, "abandoned");
  }

  private isIdle(id: number): boolean {
    return id > this.lastId || (id & 1) === 0;
  }

  private find(id: number): Stream | undefined {
    return this.newest?.id === id ? this.newest : this.open.get(id);
  }

  private blockDone(): void {
    const { id, endsStream, dependsOnItself } = this.block;
    const known = id <= this.lastId;
    const stream = known ? this.find(id) : undefined;
    const head = this.block.decode(stream === undefined ? "request" : "trailers");
    if (typeof head === "string") this.connection.fail(frames.COMPRESSION_ERROR, head);
    else if (!this.connection.affords(this.block.amplification)) return;
    else if (stream !== undefined) this.trailers(stream, head, endsStream);
    else if (!known) this.request(id, head, endsStream, dependsOnItself);
    else if (this.block.opensStream) {
      this.fail(id, frames.STREAM_CLOSED);
      this.connection.fail(frames.PROTOCOL_ERROR, "stream id used before");
    } else this.stray(id, this.block.length);
  }

  private trailers(stream: Stream, head: Head, endsStream: boolean): void {
    if (!stream.receiving) {
      if (this.connection.spend(1)) this.fail(stream.id, frames.STREAM_CLOSED);
    } else if (!endsStream || head.malformed || head.oversized) this.fail(stream.id, frames.PROTOCOL_ERROR);
    else this.calls.take(stream, true, NO_BYTES, 0, 0);
  }

  private request(id: number, head: Head, endsStream: boolean, dependsOnItself: boolean): void {
    const { connection } = this;
    this.park();
    this.lastId = id;
    if (!this.lifetime.takesStreams) {
      this.allowStrays(); // above the last id of our GOAWAY: the client will send it elsewhere
      return;
    }
    this.lastServed = id;
    this.lifetime.busy();
    if (this.open.size >= connection.server.limits.maxConcurrentStreams) {
      this.refuse(id);
      return;
    }
    if (head.malformed || dependsOnItself || (endsStream && head.contentLength > 0)) {
      if (connection.trusted || connection.spend(WASTE)) this.fail(id, frames.PROTOCOL_ERROR);
      this.allowStrays();
      return;
    }
    const stream = new Stream(connection, id, head, this.sender.initialWindow, connection.now);
    this.newest = stream;
    if (endsStream) stream.receiving = false;
    const reply = refusal(head, stream);
    if (reply !== undefined) this.send(stream, reply);
    else if (stream.deadline <= connection.now) this.calls.giveUp(stream, "deadline");
    else if (endsStream) this.calls.take(stream, true, NO_BYTES, 0, 0);
  }

  private refuse(id: number): void {
    const { connection } = this;
    connection.server.stats.refused++;
    this.allowStrays();
    // Before our SETTINGS were acknowledged the peer could not know the limit.
    const known = connection.settings.acknowledged && !connection.trusted;
    if (!known || connection.spend(WASTE)) this.fail(id, frames.REFUSED_STREAM);
  }

  /** The answer must wait for the peer: not for ever. */
  private waits(stream: Stream): void {
    if (stream === this.newest) this.park();
    if (!this.hold(stream, stream.reply!.frames.length)) {
      this.fail(stream.id, frames.ENHANCE_YOUR_CALM);
      return;
    }
    clearTimeout(stream.timer);
    const cancel = () => this.connection.act(() => stream.done || this.fail(stream.id, frames.CANCEL));
    stream.timer = setTimeout(cancel, this.connection.server.limits.undrainedMs);
  }

  /** The answer is out. If the request is not, the client may stop sending it (RFC 9113 §8.1). */
  private sent(stream: Stream): void {
    if (stream.receiving) {
      this.allowStrays();
      const at = this.connection.output.frame(4, frames.RST_STREAM, 0, stream.id);
      frames.writeUint32(this.connection.output.bytes, at, frames.NO_ERROR);
    }
    this.remove(stream, "answered");
  }

  private remove(stream: Stream, why: "answered" | "abandoned"): void {
    if (stream === this.newest) this.newest = undefined;
    else this.open.delete(stream.id);
    const { stats, budget } = this.connection.server;
    if (stream.body !== undefined) {
      stats.buffered -= stream.body.length;
      budget.give(stream.body.length);
    }
    if (stream.held > 0) budget.give(stream.held);
    stream.close(why);
    if (this.isEmpty) this.lifetime.idle();
  }

  /** We ended a stream before the peer did: a window's worth of it may be on the way. */
  private allowStrays(): void {
    this.strays += this.connection.server.initialWindow + frames.MAX_FRAME;
  }

  /** A frame on a closed stream. Which streams we ended is not remembered: what may come on them is bounded instead. */
  private stray(id: number, octets: number): void {
    this.strays -= octets + frames.FRAME_HEADER;
    if (this.strays >= 0) return;
    this.strays = 0;
    if (this.connection.spend(1)) this.fail(id, frames.STREAM_CLOSED);
  }
}
