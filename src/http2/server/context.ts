import type { HeadReader } from "../unary/head.ts";
import type { ConnectionPeer, UnaryCall } from "../unary/routes.ts";
import type { ByteBudget, Limits } from "./limits.ts";
import type { Output } from "./output.ts";

/** Why a connection ended early. */
export interface ConnectionError {
  /** The HTTP/2 error code of our GOAWAY; undefined where the connection was cut without one. */
  readonly code: number | undefined;
  readonly reason: string;
  readonly peer: ConnectionPeer;
  /** Set for a bug of ours. */
  readonly error?: unknown;
}

export interface ServerStats {
  connections: number;
  requests: number;
  refused: number;
  cancelled: number;
  connectionErrors: number;
  /** Octets of request bodies in assembly. */
  buffered: number;
}

/** The parts that all connections of a server share. */
export interface ServerContext {
  readonly limits: Limits;
  readonly output: Output;
  readonly headReader: HeadReader;
  readonly budget: ByteBudget;
  /** SETTINGS_INITIAL_WINDOW_SIZE: a whole message of the largest route fits. */
  readonly initialWindow: number;
  readonly stats: ServerStats;
  /** Calls `connection.wake` once the output is free. */
  wake(connection: Wakeable): void;
  connectionError(error: ConnectionError): void;
  handlerError(error: unknown, call: UnaryCall): void;
}

export interface Wakeable {
  wake(): void;
}

/** The part of a connection that all its parts use. They see no more of it, and nothing of each other but what they name. */
export interface Link {
  /** For its limits, budget and counters. */
  readonly server: ServerContext;
  readonly output: Output;
  readonly trusted: boolean;
  /** When the running event began, on the scale of performance.now(). */
  readonly now: number;
  /** Takes from the budget for frames that are work without being a request; false where that ended the connection. */
  spend(amount: number): boolean;
  /** A connection error (RFC 9113 §5.4.1). */
  fail(code: number, reason: string): void;
  /** Runs something that may write, when the output is free. */
  act(job: () => void): void;
}
