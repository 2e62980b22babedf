import type { ServedCall } from "../unary/exchange.ts";
import type { Reply } from "../unary/reply.ts";
import type { ConnectionPeer } from "../unary/routes.ts";
import * as frames from "../wire/frame.ts";
import { FrameReader, type FrameSink } from "../wire/frame-reader.ts";
import { PeerSettings, settingsFrames } from "../wire/settings.ts";
import type { ServerContext } from "./context.ts";
import { ControlFrames } from "./control-frames.ts";
import { Lifetime, type LifetimeLink } from "./lifetime.ts";
import { Budget } from "./limits.ts";
import type { Output, OutputOwner, Pipe } from "./output.ts";
import type { Stream } from "./stream.ts";
import { Streams, type StreamsLink } from "./streams.ts";

const INTERNAL_ERROR = 2;
const LONGEST_DEBUG = 64;
/** Octets of answers in a socket that the budget does not count. Above it the socket emits 'drain'. */
const UNCOUNTED = 65_536;
/**
 * One HTTP/2 connection of a server that never pushes (RFC 9113). All of it runs inside `receive` or `act`, while the
 * connection owns the output. An answer from another connection's handler, or a timer, waits in the connection's queue
 * until then.
 */
export class Connection implements FrameSink, OutputOwner, StreamsLink, LifetimeLink {
  readonly pipe: Pipe;
  readonly peer: ConnectionPeer;
  readonly trusted: boolean;
  readonly mustCopy: boolean;
  readonly server: ServerContext;
  readonly output: Output;
  readonly streams: Streams;
  readonly lifetime: Lifetime;
  readonly settings = new PeerSettings();
  /** When the running event began, on the scale of performance.now(). */
  now: number;
  /** Our last frame is sent; frames that still arrive are ignored. */
  over = false;
  private readonly control: ControlFrames;
  private readonly reader = new FrameReader();
  private readonly budget: Budget;
  private readonly amplification: Budget;
  private prefaceSeen = 0;
  private unacknowledged = 0;
  /** Octets of the listener's budget for what the socket holds. */
  private unread = 0;
  private readonly answers: Stream[] = [];
  private readonly jobs: (() => void)[] = [];

  constructor(
    server: ServerContext,
    pipe: Pipe,
    peer: ConnectionPeer,
    trust: "trusted" | "untrusted",
    writes: "lend" | "copy",
  ) {
    this.server = server;
    this.pipe = pipe;
    this.peer = peer;
    this.trusted = trust === "trusted";
    this.mustCopy = writes === "copy";
    this.output = server.output;
    this.now = performance.now();
    this.budget = new Budget(server.limits.budget, server.limits.budgetPerSecond, this.now);
    this.amplification = new Budget(server.limits.maxAmplification, server.limits.maxAmplification, this.now);
    this.lifetime = new Lifetime(this);
    this.streams = new Streams(this, this.lifetime);
    this.control = new ControlFrames(this, this.streams, this.settings, this.lifetime);
    this.act(() => this.put(settingsFrames(server.limits, server.initialWindow)));
  }

  /** Takes the octets of one read. The caller may overwrite `bytes` when this returns. */
  receive(bytes: Buffer, start: number, end: number): void {
    if (this.over) return;
    if (this.output.owner !== undefined) {
      const kept = Buffer.from(bytes.subarray(start, end));
      this.later(() => this.read(kept, 0, kept.length));
      return;
    }
    this.hold(() => this.read(bytes, start, end));
  }

  /** Runs a job that may write: now if the output is free, else soon. */
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

  /** Runs the jobs that waited for a free output. */
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
    this.control.frame(type, flags, id, bytes, start, end);
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

  /** A call that its handler answered pays for the frames that clients send around one. */
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

  /** Sends nothing more: flushes, ends our side and drops the open streams. */
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
    this.count(0);
  }

  broke(error: unknown, call: ServedCall): void {
    this.server.handlerError(error, call);
  }

  queued(octets: number): void {
    const counted = this.count(octets > UNCOUNTED ? octets : 0);
    if ((counted && octets <= this.server.limits.maxQueued) || this.streams.sender.heldBack) return;
    this.streams.sender.heldBack = true;
    this.lifetime.heldBackAt = performance.now();
    this.pipe.pause();
  }

  /** The socket took everything that waited in it. */
  drained(): void {
    this.count(0);
    if (!this.streams.sender.heldBack) return;
    this.streams.sender.heldBack = false;
    this.act(() => this.streams.sender.pump());
    if (!this.streams.sender.heldBack) this.pipe.resume();
  }

  /** Keeps the budget's count of unread answers right; false where the budget does not hold them. */
  private count(octets: number): boolean {
    const { budget } = this.server;
    if (octets > this.unread && !budget.take(octets - this.unread)) return false;
    if (octets < this.unread) budget.give(this.unread - octets);
    this.unread = octets;
    return true;
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
}
