import { type Failures, prepareFailures } from "./failures.ts";
import type { Failure, Protocol } from "./protocol.ts";
import type { Reply } from "./reply.ts";

/** One request as its handler sees it. Valid for as long as the handler wants; the answer is the handler's result. */
export interface UnaryCall {
  /** As sent, with its query. */
  readonly path: string;
  readonly protocol: Protocol;
  readonly method: string;
  /** The one authority of the request, `:authority` or `host`; empty only in a `failed` hook, for a bad one. */
  readonly authority: string;
  /** The field's value; several are joined as RFC 9110 §5.3 says, `cookie` with "; ". The name is in lower case. */
  metadata(name: string): string | undefined;
  /** All field lines in order, without pseudo-headers, names in lower case, values as latin1. */
  rawHeaders(): [name: string, value: string][];
  /** When the answer is due, on the scale of performance.now(): the client's timeout, clamped to the route's cap. */
  readonly deadline: number;
  /** Aborts when the client resets the stream, the connection ends, or the deadline has been answered. */
  readonly signal: AbortSignal;
  readonly peer: ConnectionPeer;
  /** A copy of a borrowed message that may be kept. */
  copy(view: Uint8Array): Uint8Array;
}

export interface ConnectionPeer {
  /** The IP address; empty on a unix socket. */
  readonly address: string;
  readonly unix: boolean;
  /** The DNS and URI names of a verified client certificate; empty without one. */
  certificateSans(): string[];
}

/**
 * Answers one call. `message` is BORROWED: it may lie in a buffer that the next read overwrites, so it may be used
 * until the handler returns; `call.copy(message)` before that gives one to keep. Only a function declared `async`, which
 * can hardly be written without keeping it, is given bytes of its own. A throw or a rejection is answered as the failure
 * "internal" of this call alone.
 */
export type Handler = (message: Uint8Array, call: UnaryCall) => Reply | Promise<Reply>;

export interface UnaryRoute {
  readonly handler: Handler;
  /** The largest message in octets; a longer one is refused on its length prefix, before anything is allocated. */
  readonly maxMessage: number;
  /** The longest a call may take, in milliseconds; a client's own timeout is honoured when it is shorter. */
  readonly deadlineMs: number;
  /** "rpc" (the default) answers gRPC and Connect unary; "http" takes any method and content type as plain HTTP. */
  readonly kind?: "rpc" | "http";
  /**
   * The head says it all: a body is neither waited for nor given to the handler. Proxies that ask about a request often
   * announce its body and send none. Over HTTP/1.1 only: an HTTP/2 request says itself when it ends.
   */
  readonly byHead?: boolean;
  /**
   * Answers in the handler's place, so that a method whose RPC errors would count as permission can refuse inside an OK RPC. When
   * present it is also given its deadline a little before the client's, so that this answer arrives first. Must not
   * throw; absent, the protocol's own error is answered.
   */
  failed?(call: UnaryCall, kind: Failure): Reply;
}

export interface Routes {
  readonly exact: ReadonlyMap<string, UnaryRoute>;
  /** Plain HTTP by the start of the path; the first that fits is taken. */
  readonly prefix: readonly (readonly [start: string, route: UnaryRoute])[];
  /** The answers to failures that no route answers itself. By default the bare errors of the protocols. */
  readonly failures?: Failures;
}

/** A route with what it answers to decided. */
export interface Target {
  readonly route: UnaryRoute;
  readonly plain: boolean;
  /** True if the handler must get a copy of the message. */
  readonly copies: boolean;
}

const BARE = prepareFailures();

/** Finds the route of a `:path`. A query is no part of a plain route's name; RPC paths have none. */
export class RouteTable {
  /** The largest message of any route, in octets. */
  readonly largestMessage: number;
  readonly failures: Failures;
  private readonly exact: ReadonlyMap<string, Target>;
  private readonly prefix: readonly (readonly [string, Target])[];

  constructor(routes: Routes) {
    this.exact = new Map([...routes.exact].map(([path, route]) => [path, target(route, route.kind ?? "rpc")]));
    this.prefix = routes.prefix.map(([start, route]) => [start, target(route, "http")]);
    this.failures = routes.failures ?? BARE;
    const all = [...routes.exact.values(), ...routes.prefix.map(([, route]) => route)];
    this.largestMessage = all.reduce((most, route) => Math.max(most, route.maxMessage), 0);
  }

  find(path: string): Target | undefined {
    const exact = this.exact.get(path);
    if (exact !== undefined) return exact;
    for (const [start, target] of this.prefix) if (path.startsWith(start)) return target;
    const query = path.indexOf("?");
    if (query < 0) return undefined;
    const target = this.exact.get(path.slice(0, query));
    return target?.plain === true ? target : undefined;
  }
}

function target(route: UnaryRoute, kind: "rpc" | "http"): Target {
  return { route, plain: kind === "http", copies: keepsMessage(route.handler) };
}

/** True for a function declared `async`: it is given a message of its own to keep. */
export function keepsMessage(handler: Handler): boolean {
  return Object.prototype.toString.call(handler) === "[object AsyncFunction]";
}
