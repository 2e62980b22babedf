import type { ServedCall } from "./exchange.ts";
import * as frames from "./frame.ts";
import { FrameReader, type FrameSink } from "./frame-reader.ts";
import { Lifetime } from "./lifetime.ts";
import { Budget } from "./limits.ts";
import type { Output, OutputOwner, Pipe } from "./output.ts";
import type { Reply } from "./reply.ts";
import type { Peer } from "./routes.ts";
import type { ServerContext } from "./server.ts";
import { PeerSettings, settingsFrames } from "./settings.ts";
import type { Stream } from "./stream.ts";
import { Streams } from "./streams.ts";

const INTERNAL_ERROR = 2;
const LONGEST_DEBUG = 64;
/** What frames cost that ask for work without being a request. */
const COST = { settings: 2, ping: 1, priority: 1, unknown: 1, windowUpdate: 0.1, smallWindowUpdate: 1, emptyData: 1 };
const SMALL_UPDATE = 1_024;

/**
 * One HTTP/2 connection of a server that never pushes (RFC 9113). All of it runs inside `receive` or `act`, while the
 * connection owns the output; whatever comes from elsewhere (an answer from another connection's handler, a timer)
 * waits in the connection's own queue until then.
 */
export class Connection implements FrameSink, OutputOwner {
  readonly pipe: Pipe;
  readonly peer: Peer;
  readonly trusted: boolean;
  readonly mustCopy: boolean;
  readonly server: ServerContext;
  readonly output: Output;
  readonly streams: Streams;
  readonly lifetime: Lifetime;
  readonly settings = new PeerSettings();
  /** When the running event began, on the scale of performance.now(). */
  now: number;
  /** We have said our last frame; what still comes is not looked at. */
  over = false;
  private readonly reader = new FrameReader();
  private readonly budget: Budget;
  private readonly amplification: Budget;
  private prefaceSeen = 0;
  private unacknowledged = 0;
  private readonly answers: Stream[] = [];
  private readonly jobs: (() => void)[] = [];

  constructor(server: ServerContext, pipe: Pipe, peer: Peer, trust: "trusted" | "untrusted", writes: "lend" | "copy") {
    this.server = server;
    this.pipe = pipe;
    this.peer = peer;
    this.trusted = trust === "trusted";
    this.mustCopy = writes === "copy";
    this.output = server.output;
    this.now = performance.now();
    this.budget = new Budget(server.limits.budget, server.limits.budgetPerSecond, this.now);
    this.amplification = new Budget(server.limits.maxAmplification, server.limits.maxAmplification, this.now);
    this.streams = new Streams(this);
    this.lifetime = new Lifetime(this);
    this.act(() => this.put(settingsFrames(server.limits, server.initialWindow)));
  }

  /** Takes one read's octets; `bytes` is the caller's again when this returns. */
  receive(bytes: Buffer, start: number, end: number): void {
    if (this.over) return;
    if (this.output.owner !== undefined) {
      const kept = Buffer.from(bytes.subarray(start, end));
      this.later(() => this.read(kept, 0, kept.length));
      return;
    }
    this.hold(() => this.read(bytes, start, end));
  }

  /** Runs something that may write, now when the output is free, else soon. */
  act(job: () => void): void {
    if (this.output.owner === undefined) this.hold(job);
    else this.later(job);
  }

  /** Answers a stream from anywhere; the first answer counts. */
  answer(stream: Stream, reply: Reply): void {
    if (stream.answered || stream.done) return;
    stream.answered = true;
    if (this.output.owner === this) this.streams.send(stream, reply);
    else {
      stream.reply = reply;
      this.answers.push(stream);
      this.server.wake(this);
    }
  }

  /** Does what waited for the output to be free. */
  wake(): void {
    this.hold(() => {
      for (const job of this.jobs.splice(0)) if (!this.over) job();
      for (const stream of this.answers.splice(0)) if (!stream.done) this.streams.send(stream, stream.reply!);
    });
  }

  frame(type: number, flags: number, id: number, bytes: Buffer, start: number, end: number): boolean {
    if (!this.settings.received && type !== frames.SETTINGS) this.fail(frames.PROTOCOL_ERROR, "SETTINGS expected");
    else if (this.streams.inBlock && (type !== frames.CONTINUATION || id !== this.streams.blockId)) {
      this.fail(frames.PROTOCOL_ERROR, "CONTINUATION expected");
    } else this.dispatch(type, flags, id, bytes, start, end);
    return !this.over;
  }

  frameTooLong(): void {
    this.fail(frames.FRAME_SIZE_ERROR, "frame too long");
  }

  private dispatch(type: number, flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    switch (type) {
      case frames.DATA:
        this.unacknowledged += end - start;
        if (end === start && (flags & frames.END_STREAM) === 0 && !this.spend(COST.emptyData)) return;
        this.streams.data(flags, id, bytes, start, end);
        return;
      case frames.HEADERS:
        this.streams.headers(flags, id, bytes, start, end);
        return;
      case frames.CONTINUATION:
        this.streams.continuation(flags, bytes, start, end);
        return;
      case frames.PUSH_PROMISE:
        this.fail(frames.PROTOCOL_ERROR, "PUSH_PROMISE from a client");
        return;
    }
    this.streams.park();
    const length = end - start;
    switch (type) {
      case frames.PRIORITY:
        this.priority(id, bytes, start, length);
        return;
      case frames.RST_STREAM:
        if (length !== 4) this.fail(frames.FRAME_SIZE_ERROR, "RST_STREAM");
        else this.streams.reset(id);
        return;
      case frames.SETTINGS:
        this.peerSettings(flags, id, bytes, start, end);
        return;
      case frames.PING:
        this.ping(flags, id, bytes, start, end);
        return;
      case frames.GOAWAY:
        if (id !== 0) this.fail(frames.PROTOCOL_ERROR, "GOAWAY on a stream");
        else if (length < 8) this.fail(frames.FRAME_SIZE_ERROR, "GOAWAY");
        else this.lifetime.peerIsLeaving();
        return;
      case frames.WINDOW_UPDATE:
        this.windowUpdate(id, bytes, start, length);
        return;
      default:
        this.spend(COST.unknown); // RFC 9113 §4.1: unknown types are ignored
    }
  }

  /** Takes from the connection's budget for frames that are work without being a request; over it, the connection ends. */
  spend(amount: number): boolean {
    if (this.budget.spend(amount, this.now)) return true;
    this.fail(frames.ENHANCE_YOUR_CALM, "too many frames without requests");
    return false;
  }

  /** Charges header lists that are larger than their blocks explain; no client of a proxy can make it send such. */
  affords(amplification: number): boolean {
    if (amplification === 0 || this.amplification.spend(amplification, this.now)) return true;
    this.fail(frames.ENHANCE_YOUR_CALM, "header compression abuse");
    return false;
  }

  /** An answered request pays for the frames that clients send around one. */
  earn(amount: number): void {
    this.budget.earn(amount);
  }

  /** A connection error (RFC 9113 §5.4.1): GOAWAY, then the end. Needs the output. */
  fail(code: number, reason: string): void {
    if (this.over) return;
    const debug = Buffer.from(reason.slice(0, LONGEST_DEBUG), "latin1");
    const at = this.output.frame(8 + debug.length, frames.GOAWAY, 0, 0);
    frames.writeUint32(this.output.bytes, at, this.streams.lastServed);
    frames.writeUint32(this.output.bytes, at + 4, code);
    this.output.bytes.set(debug, at + 8);
    this.server.stats.connectionErrors++;
    this.finish();
    this.pipe.pause(); // a flood is not read to its end
    this.server.connectionError({ code, reason, peer: this.peer });
  }

  /** Says nothing more: flushes, ends our side and drops what is still open. */
  finish(): void {
    if (this.over) return;
    this.over = true;
    this.output.flush();
    this.streams.abandonAll();
    this.pipe.end();
    this.lifetime.linger();
  }

  /** The socket is gone. */
  closed(): void {
    this.over = true;
    this.lifetime.closed();
    this.streams.abandonAll();
  }

  broke(error: unknown, call: ServedCall): void {
    this.server.handlerError(error, call);
  }

  queued(octets: number): void {
    if (octets <= this.server.limits.maxQueued || this.streams.sender.heldBack) return;
    this.streams.sender.heldBack = true;
    this.lifetime.heldBackAt = performance.now();
    this.pipe.pause();
  }

  /** The socket took everything that waited in it. */
  drained(): void {
    if (!this.streams.sender.heldBack) return;
    this.streams.sender.heldBack = false;
    this.act(() => this.streams.sender.pump());
    if (!this.streams.sender.heldBack) this.pipe.resume();
  }

  put(bytes: Uint8Array): void {
    const at = this.output.room(bytes.length);
    this.output.bytes.set(bytes, at);
  }

  private later(job: () => void): void {
    this.jobs.push(job);
    this.server.wake(this);
  }

  /** Owns the output for the job. A job that throws is our bug: it costs this connection and no other. */
  private hold(job: () => void): void {
    this.output.begin(this);
    try {
      job();
    } catch (error) {
      this.server.connectionError({ code: INTERNAL_ERROR, reason: "internal", peer: this.peer, error });
      this.pipe.destroy();
      this.closed();
    } finally {
      this.output.end();
    }
  }

  private read(bytes: Buffer, start: number, end: number): void {
    this.now = performance.now();
    this.lifetime.heard();
    const at = this.settings.received ? start : this.preface(bytes, start, end);
    if (at < 0) return;
    this.reader.read(bytes, at, end, this);
    if (this.over) return;
    this.streams.settle();
    if (this.unacknowledged > 1 << 20) this.credit(0, this.unacknowledged);
  }

  /** Returns where the frames start; -1 when it was no preface (RFC 9113 §3.4). */
  private preface(bytes: Buffer, start: number, end: number): number {
    let at = start;
    for (; at < end && this.prefaceSeen < frames.PREFACE.length; at++, this.prefaceSeen++) {
      if (bytes[at] === frames.PREFACE[this.prefaceSeen]) continue;
      this.fail(frames.PROTOCOL_ERROR, "connection preface");
      return -1;
    }
    return at;
  }

  /** Gives the peer window back. */
  credit(id: number, octets: number): void {
    const at = this.output.frame(4, frames.WINDOW_UPDATE, 0, id);
    frames.writeUint32(this.output.bytes, at, octets);
    if (id === 0) this.unacknowledged -= octets;
  }

  private priority(id: number, bytes: Buffer, start: number, length: number): void {
    if (id === 0) this.fail(frames.PROTOCOL_ERROR, "PRIORITY on stream 0");
    else if (!this.spend(COST.priority)) return;
    else if (length !== 5) this.streams.fail(id, frames.FRAME_SIZE_ERROR);
    else if (frames.readUint31(bytes, start) === id) this.streams.fail(id, frames.PROTOCOL_ERROR);
  }

  private peerSettings(flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    const wrong = this.settings.check(flags, id, end - start);
    if (wrong !== undefined) {
      this.fail(wrong, "SETTINGS");
      return;
    }
    if (!this.spend(COST.settings)) return;
    if ((flags & frames.ACK) !== 0) {
      this.settings.acknowledged = true;
      return;
    }
    const code = this.settings.apply(bytes, start, end, this.streams);
    if (code !== frames.NO_ERROR) {
      this.fail(code, "SETTINGS value");
      return;
    }
    this.output.frame(0, frames.SETTINGS, frames.ACK, 0);
    this.streams.sender.pump();
  }

  private ping(flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    if (id !== 0) this.fail(frames.PROTOCOL_ERROR, "PING on a stream");
    else if (end - start !== 8) this.fail(frames.FRAME_SIZE_ERROR, "PING");
    else if ((flags & frames.ACK) !== 0) {
      if (!this.lifetime.pong(bytes.readUInt32BE(start + 4))) this.spend(COST.ping);
    } else if (this.spend(COST.ping)) {
      const at = this.output.frame(8, frames.PING, frames.ACK, 0);
      this.output.bytes.set(bytes.subarray(start, end), at);
    }
  }

  private windowUpdate(id: number, bytes: Buffer, start: number, length: number): void {
    if (length !== 4) {
      this.fail(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE");
      return;
    }
    const octets = frames.readUint31(bytes, start);
    if (!this.spend(octets < SMALL_UPDATE ? COST.smallWindowUpdate : COST.windowUpdate)) return;
    if (id !== 0) this.streams.widen(id, octets);
    else if (octets === 0) this.fail(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0");
    else if (!this.streams.sender.widen(octets)) this.fail(frames.FLOW_CONTROL_ERROR, "window beyond 2^31-1");
    else this.streams.sender.pump();
  }
}
