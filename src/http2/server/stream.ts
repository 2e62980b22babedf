import { protocolFor, type ServedCall, timeFor } from "../unary/exchange.ts";
import type { Head } from "../unary/head.ts";
import type { Protocol } from "../unary/protocol.ts";
import type { Reply } from "../unary/reply.ts";
import type { ConnectionPeer } from "../unary/routes.ts";
import type { Field } from "../wire/field.ts";

/** The part of a connection that a stream's handler reaches. */
export interface StreamOwner {
  readonly peer: ConnectionPeer;
  broke(error: unknown, call: ServedCall): void;
}

/** One request and its answer on an HTTP/2 connection. Its handler sees it as a UnaryCall. */
export class Stream implements ServedCall {
  readonly id: number;
  readonly head: Head;
  readonly connection: StreamOwner;
  readonly protocol: Protocol;
  readonly deadline: number;
  /** Octets of DATA the peer still lets us send on this stream; negative after it lowered its initial window. */
  sendWindow: number;
  /** No END_STREAM has come yet. */
  receiving = true;
  /** The answer is decided, though perhaps not sent. */
  answered = false;
  /** Neither side will say more. */
  done = false;
  /** The body as far as it came, where it came in more than one piece. */
  body: Buffer | undefined;
  bodyLength = 0;
  /** Flow-controlled octets that came, less what was credited. */
  received = 0;
  padding = 0;
  /** Octets of the listener's budget, besides those of the body. */
  held = 0;
  /** The answer while it waits, and how much of its body is sent; -1 while its first HEADERS are not. */
  reply: Reply | undefined;
  sent = -1;
  timer: NodeJS.Timeout | undefined;
  private controller: AbortController | undefined;
  private aborted = false;

  constructor(connection: StreamOwner, id: number, head: Head, sendWindow: number, now: number) {
    this.connection = connection;
    this.id = id;
    this.head = head;
    this.sendWindow = sendWindow;
    this.protocol = protocolFor(head);
    this.deadline = now + timeFor(head);
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

  get peer(): ConnectionPeer {
    return this.connection.peer;
  }

  get signal(): AbortSignal {
    if (this.controller === undefined) {
      this.controller = new AbortController();
      if (this.aborted) this.controller.abort();
    }
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
    this.connection.broke(error, this);
  }

  /** Ends the stream for both sides; its handler's signal aborts if nobody waits for an answer any more. */
  close(why: "answered" | "abandoned"): void {
    this.done = true;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.body = undefined;
    this.reply = undefined;
    if (why === "abandoned") this.abort();
  }

  abort(): void {
    this.aborted = true;
    this.controller?.abort();
  }
}

/** All values of a field as one (RFC 9110 §5.3, RFC 9113 §8.2.3). */
export function joined(fields: readonly Field[], name: string): string | undefined {
  let all: string | undefined;
  for (const field of fields) {
    if (field.name !== name) continue;
    all = all === undefined ? field.value : `${all}${name === "cookie" ? "; " : ", "}${field.value}`;
  }
  return all;
}

export function pairsOf(fields: readonly Field[]): [string, string][] {
  return fields.map((field) => [field.name, field.value]);
}
