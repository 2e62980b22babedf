import { bodyLimit, failure, perform, prefixFailure } from "../unary/exchange.ts";
import type { Failure } from "../unary/protocol.ts";
import { Reply } from "../unary/reply.ts";
import { PROTOCOL_ERROR } from "../wire/frame.ts";
import type { Link } from "./context.ts";
import type { Stream } from "./stream.ts";

const NO_BYTES: Buffer = Buffer.alloc(0);
const SMALLEST_BODY = 1_024;
/** Padding is credited when this much of a stream's window went into it. */
const PADDING_CREDIT = 4_096;
/** Frames that an answered call allows around it: one that its handler answered, or failed by our own fault. */
const EARNED = 4;
/** Failures that are not the peer's. */
const OURS: ReadonlySet<Failure> = new Set(["overloaded", "deadline", "internal"]);

export interface CallsLink extends Link {
  /** A call that its handler answered pays for the frames that clients send around one. */
  earn(amount: number): void;
  /** Answers a stream from anywhere; the first answer counts. */
  answer(stream: Stream, reply: Reply): void;
  /** Gives the peer window back. */
  credit(id: number, octets: number): void;
}

/** The end of a call: its answer, or a stream error. */
export interface CallEnds {
  send(stream: Stream, reply: Reply): void;
  fail(id: number, code: number): void;
}

/** From the octets of a request's body to its answer: gathers them, runs the handler, keeps the deadline. */
export class Calls {
  private readonly connection: CallsLink;
  private readonly streams: CallEnds;
  /** Handlers that have not answered yet, those of abandoned calls too. */
  private running = 0;

  constructor(connection: CallsLink, streams: CallEnds) {
    this.connection = connection;
    this.streams = streams;
  }

  /** Takes the next octets of a body; `ends` says that there are no more. */
  take(stream: Stream, ends: boolean, bytes: Buffer, start: number, end: number): void {
    if (ends) stream.receiving = false;
    const total = stream.bodyLength + end - start;
    const declared = stream.head.contentLength;
    if (declared >= 0 && (total > declared || (ends && total !== declared))) {
      this.streams.fail(stream.id, PROTOCOL_ERROR);
    } else if (stream.answered) stream.bodyLength = total;
    else if (ends && stream.bodyLength === 0) this.run(stream, bytes, start, end);
    else this.gather(stream, ends, total, bytes, start, end);
  }

  /** Answers in the handler's place, unless there is an answer. */
  giveUp(stream: Stream, why: Failure): void {
    if (stream.answered || stream.done) return;
    // A proxy's clients can bring it about; its connection is not to end over what is ours.
    if (this.connection.trusted && OURS.has(why)) this.connection.earn(EARNED);
    this.connection.answer(stream, failure(stream, why, stream.head));
    stream.abort();
  }

  /** Sets the clock on a stream that was not answered within its read. */
  watch(stream: Stream): void {
    if (stream.answered || stream.done) return;
    const left = Math.max(0, Math.ceil(stream.deadline - performance.now()));
    stream.timer = setTimeout(() => this.giveUp(stream, "deadline"), left);
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
      this.run(stream, body, 0, total);
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
    const { budget } = server;
    if (!(stream.receiving ? budget.takeWaiting(size - had) : budget.take(size - had))) return false;
    server.stats.buffered += size - had;
    const body = Buffer.allocUnsafeSlow(size);
    stream.body?.copy(body, 0, 0, stream.bodyLength);
    stream.body = body;
    return true;
  }

  /** The request is whole. */
  private run(stream: Stream, bytes: Buffer, start: number, end: number): void {
    const { server } = this.connection;
    server.stats.requests++;
    if (this.running >= server.limits.maxRunning) {
      this.giveUp(stream, "overloaded");
      return;
    }
    const result = perform(stream.head, stream, bytes, start, end);
    if (!(result instanceof Reply)) this.await(stream, result);
    else if (!stream.done && !stream.answered) {
      this.connection.earn(EARNED);
      this.streams.send(stream, result);
    }
  }

  private await(stream: Stream, result: Promise<Reply>): void {
    this.running++;
    Promise.resolve(result).then(
      (reply) => {
        this.running--;
        if (reply instanceof Reply) this.answered(stream, reply);
        else this.broke(stream, new TypeError("a handler's answer must be a Reply"));
      },
      (error: unknown) => {
        this.running--;
        this.broke(stream, error);
      },
    );
  }

  private answered(stream: Stream, reply: Reply): void {
    if (stream.done) return;
    this.connection.earn(EARNED);
    this.connection.answer(stream, reply);
  }

  private broke(stream: Stream, error: unknown): void {
    // After the answer is decided (a deadline, a cancelled call) a rejection is how handlers stop.
    if (stream.done || stream.answered) return;
    stream.broke(error);
    this.giveUp(stream, "internal");
  }
}
