import { type ByteBudget, SMALL } from "../server/limits.ts";
import { joined, pairsOf } from "../server/stream.ts";
import { newField } from "../wire/field.ts";
import {
  bodyLimit,
  failure,
  perform,
  prefixFailure,
  protocolFor,
  refusal,
  type ServedCall,
  timeFor,
} from "./exchange.ts";
import type { Head, HeadReader } from "./head.ts";
import type { Failure, Protocol } from "./protocol.ts";
import { Reply } from "./reply.ts";
import type { ConnectionPeer, UnaryCall } from "./routes.ts";

/** A request of Node's HTTP/1.1 or HTTP/2 server. */
export interface MountedRequest {
  on(event: "data", listener: (bytes: Buffer) => void): unknown;
  on(event: "end", listener: () => void): unknown;
}

/** The part of the request that was read; "by-head" if its body may never come. */
export type Read = "wholly" | "partly" | "by-head";

/** Sends the answer. */
export type SendReply = (reply: Reply, read: Read) => void;

export type HandlerErrorHook = (error: unknown, call: UnaryCall) => void;

/** The head of a request that something else has parsed. Names may have any case. */
export function headOf(reader: HeadReader, pairs: Iterable<readonly [name: string, value: string]>): Head {
  reader.start("request");
  for (const [name, value] of pairs) {
    const text = Buffer.from(value, "latin1");
    reader.field(newField(name.toLowerCase(), text, 0, text.length));
  }
  return reader.finish();
}

/** Memory of a piece of a body, besides its octets. */
const PIECE = 256;

/** Name and value as Node's `rawHeaders` alternate them. */
export function* pairsIn(raw: readonly string[]): Generator<[string, string]> {
  for (let at = 0; at + 1 < raw.length; at += 2) yield [raw[at]!, raw[at + 1]!];
}

const NO_BODY = Buffer.alloc(0);

/** One request on one of Node's servers: the same rules as on ours, with Node's streams underneath. */
export class MountedCall implements ServedCall {
  readonly protocol: Protocol;
  readonly deadline: number;
  readonly peer: ConnectionPeer;
  private readonly head: Head;
  private readonly send: SendReply;
  private readonly tell: HandlerErrorHook;
  private readonly budget: ByteBudget;
  private readonly byHead: boolean;
  private readonly controller = new AbortController();
  private chunks: Buffer[] = [];
  private length = 0;
  private held = 0;
  private read = false;
  private begun = false;
  private answered = false;
  private timer: NodeJS.Timeout | undefined;

  /** `byHead`: the mount cannot rely on the client to send the body that it announces. */
  constructor(
    head: Head,
    peer: ConnectionPeer,
    send: SendReply,
    tell: HandlerErrorHook,
    budget: ByteBudget,
    byHead: boolean,
  ) {
    this.head = head;
    this.peer = peer;
    this.send = send;
    this.tell = tell;
    this.budget = budget;
    this.byHead = byHead && head.target?.route.byHead === true;
    this.protocol = protocolFor(head);
    this.deadline = performance.now() + timeFor(head);
  }

  get path(): string {
    return this.head.path;
  }

  get method(): string {
    return this.head.method;
  }

  get authority(): string {
    return this.head.authority ?? "";
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  metadata(name: string): string | undefined {
    return joined(this.head.fields, name);
  }

  rawHeaders(): [string, string][] {
    return pairsOf(this.head.fields);
  }

  copy(view: Uint8Array): Uint8Array {
    return Uint8Array.prototype.slice.call(view);
  }

  broke(error: unknown): void {
    this.tell(error, this);
  }

  /** Answers the request: at once if its head decides, else when its body is whole, at the latest at the deadline. */
  serve(request: MountedRequest): void {
    request.on("data", (bytes) => this.take(bytes));
    request.on("end", () => this.finish());
    const reply = refusal(this.head, this);
    if (reply !== undefined) {
      this.answer(reply);
      return;
    }
    const left = Math.ceil(this.deadline - performance.now());
    if (left <= 0) {
      this.giveUp("deadline");
      return;
    }
    this.timer = setTimeout(() => this.giveUp("deadline"), left);
    // A body that came along with its head is read by then.
    if (this.byHead) setImmediate(() => this.begin(NO_BODY));
  }

  private take(bytes: Buffer): void {
    if (this.answered || this.byHead) return;
    this.length += bytes.length;
    if (this.length > bodyLimit(this.head)) {
      this.giveUp("oversized");
      return;
    }
    const weight = bytes.length + PIECE;
    const isWhole = this.length === this.head.contentLength;
    const fits = isWhole || this.held + weight <= SMALL ? this.budget.take(weight) : this.budget.takeWaiting(weight);
    if (!fits) {
      this.giveUp("overloaded");
      return;
    }
    this.held += weight;
    this.chunks.push(bytes);
    if (this.protocol !== "grpc" || this.length - bytes.length >= 5) return;
    const start = Buffer.concat(this.chunks);
    const why = prefixFailure(start, 0, start.length, this.head.target!.route.maxMessage);
    if (why !== undefined) this.giveUp(why);
  }

  private finish(): void {
    this.read = true;
    this.begin(this.chunks.length === 1 ? this.chunks[0]! : Buffer.concat(this.chunks));
  }

  private begin(body: Buffer): void {
    if (this.answered || this.begun) return;
    this.begun = true;
    this.chunks = [];
    const result = perform(this.head, this, body, 0, body.length);
    if (result instanceof Reply) this.answer(result);
    else {
      Promise.resolve(result).then(
        (reply) => (reply instanceof Reply ? this.answer(reply) : this.rejected(new TypeError("not a Reply"))),
        (error: unknown) => this.rejected(error),
      );
    }
  }

  private rejected(error: unknown): void {
    if (this.answered) return;
    this.broke(error);
    this.giveUp("internal");
  }

  private giveUp(why: Failure): void {
    this.answer(failure(this, why, this.head));
    this.controller.abort();
  }

  private answer(reply: Reply): void {
    if (this.answered) return;
    this.answered = true;
    this.release();
    clearTimeout(this.timer);
    this.send(reply, this.read ? "wholly" : this.byHead ? "by-head" : "partly");
  }

  /** Nobody waits for the answer any more. */
  abandon(): void {
    clearTimeout(this.timer);
    if (this.answered) return;
    this.answered = true;
    this.release();
    this.controller.abort();
  }

  private release(): void {
    this.chunks = [];
    this.budget.give(this.held);
    this.held = 0;
  }
}
