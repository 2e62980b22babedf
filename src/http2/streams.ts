import type { Connection } from "./connection.ts";
import { bodyLimit, failure, perform, prefixFailure, refusal } from "./exchange.ts";
import * as frames from "./frame.ts";
import type { Head } from "./head.ts";
import { HeaderBlock } from "./header-block.ts";
import { Reply } from "./reply.ts";
import type { Failure } from "./routes.ts";
import { Sender } from "./sender.ts";
import type { SettingsTarget } from "./settings.ts";
import { Stream } from "./stream.ts";

const NO_BYTES: Buffer = Buffer.alloc(0);
const SMALLEST_BODY = 1_024;
/** Padding is credited when this much of a stream's window went into it. */
const PADDING_CREDIT = 4_096;
/** What an answered request allows of frames around it, and what a wasted stream of an untrusted peer costs. */
const EARNED = 4;
const WASTE = 2;

/** The streams of one connection (RFC 9113 §5): requests come in, handlers are run, answers go out. */
export class Streams implements SettingsTarget {
  readonly sender: Sender;
  /** The highest stream id seen: everything up to it that is not open is closed. */
  lastId = 0;
  /** The highest stream id that was or will be answered; what GOAWAY names. */
  lastServed = 0;
  private readonly connection: Connection;
  private readonly block: HeaderBlock;
  private readonly open = new Map<number, Stream>();
  // A request that is whole within one read never enters the map: the stream opened last waits here for its DATA.
  private newest: Stream | undefined;
  /** Parked in this read; most of them are answered before it ends and need no clock. */
  private unwatched: Stream[] = [];
  /** Handlers that have not answered yet, those of abandoned calls too. */
  private running = 0;
  /** Octets that may still come on streams we ended first; they cross our frames on the wire and are not held against the peer. */
  private strays = 0;

  constructor(connection: Connection) {
    this.connection = connection;
    this.block = new HeaderBlock(connection.server.headReader, connection.server.limits);
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
  }

  /** The end of a read: what is still open now has its deadline enforced. */
  settle(): void {
    this.park();
    if (this.unwatched.length === 0) return;
    for (const stream of this.unwatched) if (!stream.done && !stream.answered) this.watch(stream);
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
    stream.received += end - start;
    if (stream.received > this.connection.server.initialWindow) this.fail(id, frames.FLOW_CONTROL_ERROR);
    else this.body(stream, (flags & frames.END_STREAM) !== 0, bytes, from, to);
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
    this.connection.earn(EARNED);
    this.sender.send(stream, reply);
  }

  /** Nobody waits for any answer any more. */
  abandonAll(): void {
    this.park();
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
    else this.body(stream, true, NO_BYTES, 0, 0);
  }

  private request(id: number, head: Head, endsStream: boolean, dependsOnItself: boolean): void {
    const { connection } = this;
    this.park();
    this.lastId = id;
    if (!connection.lifetime.takesStreams) {
      this.allowStrays(); // above the last id of our GOAWAY: the client will send it elsewhere
      return;
    }
    this.lastServed = id;
    connection.lifetime.busy();
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
    else if (stream.deadline <= connection.now) this.giveUp(stream, "deadline");
    else if (endsStream) this.complete(stream, NO_BYTES, 0, 0);
  }

  private refuse(id: number): void {
    const { connection } = this;
    connection.server.stats.refused++;
    this.allowStrays();
    // Before our SETTINGS were acknowledged the peer could not know the limit.
    const known = connection.settings.acknowledged && !connection.trusted;
    if (!known || connection.spend(WASTE)) this.fail(id, frames.REFUSED_STREAM);
  }

  private body(stream: Stream, ends: boolean, bytes: Buffer, start: number, end: number): void {
    if (ends) stream.receiving = false;
    const total = stream.bodyLength + end - start;
    const declared = stream.head.contentLength;
    if (declared >= 0 && (total > declared || (ends && total !== declared))) {
      this.fail(stream.id, frames.PROTOCOL_ERROR);
    } else if (stream.answered) stream.bodyLength = total;
    else if (ends && stream.bodyLength === 0) this.complete(stream, bytes, start, end);
    else this.gather(stream, ends, total, bytes, start, end);
  }

  private gather(stream: Stream, ends: boolean, total: number, bytes: Buffer, start: number, end: number): void {
    if (total > bodyLimit(stream.head)) {
      this.giveUp(stream, "oversized");
      return;
    }
    if (!this.reserve(stream, total)) {
      this.giveUp(stream, "overloaded");
      return;
    }
    const body = stream.body ?? NO_BYTES;
    bytes.copy(body, stream.bodyLength, start, end);
    stream.bodyLength = total;
    if (ends) {
      this.complete(stream, body, 0, total);
      return;
    }
    if (stream.protocol === "grpc") {
      const why = prefixFailure(body, 0, total, stream.head.target!.route.maxMessage);
      if (why !== undefined) this.giveUp(stream, why);
    }
    if (stream.padding >= PADDING_CREDIT && !stream.done) {
      this.connection.credit(stream.id, stream.padding);
      stream.received -= stream.padding;
      stream.padding = 0;
    }
  }

  /** Makes room for `total` octets of body, by doubling, so that a peer must send what it wants us to hold. */
  private reserve(stream: Stream, total: number): boolean {
    const had = stream.body?.length ?? 0;
    if (total <= had) return true;
    const { server } = this.connection;
    const size = Math.min(bodyLimit(stream.head), Math.max(total, had * 2, SMALLEST_BODY));
    if (server.stats.buffered + size - had > server.limits.maxBuffered) return false;
    server.stats.buffered += size - had;
    const body = Buffer.allocUnsafeSlow(size);
    stream.body?.copy(body, 0, 0, stream.bodyLength);
    stream.body = body;
    return true;
  }

  /** The request is whole. */
  private complete(stream: Stream, bytes: Buffer, start: number, end: number): void {
    const { server } = this.connection;
    if (stream.head.contentLength >= 0 && stream.head.contentLength !== end - start) {
      this.fail(stream.id, frames.PROTOCOL_ERROR);
      return;
    }
    server.stats.requests++;
    if (this.running >= server.limits.maxRunning) {
      this.giveUp(stream, "overloaded");
      return;
    }
    const result = perform(stream.head, stream, bytes, start, end);
    if (result instanceof Reply) {
      if (!stream.done && !stream.answered) this.send(stream, result);
    } else this.await(stream, result);
  }

  private await(stream: Stream, result: Promise<Reply>): void {
    this.running++;
    if (stream === this.newest) this.park();
    Promise.resolve(result).then(
      (reply) => {
        this.running--;
        if (reply instanceof Reply) this.connection.answer(stream, reply);
        else this.broke(stream, new TypeError("a handler's answer must be a Reply"));
      },
      (error: unknown) => {
        this.running--;
        this.broke(stream, error);
      },
    );
  }

  private broke(stream: Stream, error: unknown): void {
    // After the answer is decided (a deadline, a cancelled call) a rejection is how handlers stop.
    if (stream.done || stream.answered) return;
    stream.broke(error);
    this.connection.answer(stream, failure(stream, "internal", stream.head.target?.route));
  }

  private giveUp(stream: Stream, why: Failure): void {
    this.connection.answer(stream, failure(stream, why, stream.head.target?.route));
    stream.abort();
  }

  /** Sets the clock on a stream that will not be answered within this read. */
  private watch(stream: Stream): void {
    const left = Math.max(0, Math.ceil(stream.deadline - performance.now()));
    stream.timer = setTimeout(() => this.giveUp(stream, "deadline"), left);
  }

  /** The answer must wait for the peer: not for ever. */
  private waits(stream: Stream): void {
    if (stream === this.newest) this.park();
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
    if (stream.body !== undefined) this.connection.server.stats.buffered -= stream.body.length;
    stream.close(why);
    if (this.isEmpty) this.connection.lifetime.idle();
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
