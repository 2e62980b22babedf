// Connections over a pipe that is no socket: every write is kept, every read overwritten.
import { Connection } from "../../src/http2/server/connection.ts";
import type { ConnectionError, ServerContext, Wakeable } from "../../src/http2/server/context.ts";
import { ByteBudget, DEFAULT_LIMITS } from "../../src/http2/server/limits.ts";
import { Output, type Pipe } from "../../src/http2/server/output.ts";
import { HeadReader } from "../../src/http2/unary/head.ts";
import { RouteTable, type UnaryRoute } from "../../src/http2/unary/routes.ts";

/** A pipe that takes everything at once, or says how much waits in it. */
export class KeepingPipe implements Pipe {
  readonly written: Buffer[] = [];
  destroyed = false;
  writableLength = 0;

  write(bytes: Uint8Array): boolean {
    this.written.push(Buffer.from(bytes));
    return true;
  }

  end(): void {}
  destroy(): void {
    this.destroyed = true;
  }
  pause(): void {}
  resume(): void {}
}

export interface HarnessContext {
  readonly context: ServerContext;
  readonly errors: ConnectionError[];
  /** What a server does once the running event is over. */
  wakeAll(): void;
}

export function harnessContext(routes: Readonly<Record<string, UnaryRoute>>): HarnessContext {
  const errors: ConnectionError[] = [];
  const woken = new Set<Wakeable>();
  const table = new RouteTable({ exact: new Map(Object.entries(routes)), prefix: [] });
  const context: ServerContext = {
    limits: DEFAULT_LIMITS,
    output: new Output(),
    headReader: new HeadReader(table, DEFAULT_LIMITS, false),
    budget: new ByteBudget(DEFAULT_LIMITS.maxBuffered),
    initialWindow: 65_535,
    stats: { connections: 0, requests: 0, refused: 0, cancelled: 0, connectionErrors: 0, buffered: 0 },
    wake: (connection) => woken.add(connection),
    connectionError: (error) => errors.push(error),
    handlerError() {},
  };
  const wakeAll = (): void => {
    for (const connection of woken) {
      woken.delete(connection);
      connection.wake();
    }
  };
  return { context, errors, wakeAll };
}

export interface Harness {
  readonly connection: Connection;
  /** Everything said so far. */
  output(): Buffer;
  feed(...pieces: Uint8Array[]): void;
}

export function harness(context: ServerContext, trust: "trusted" | "untrusted" = "trusted"): Harness {
  const pipe = new KeepingPipe();
  const peer = { address: "test", unix: false, certificateSans: () => [] };
  const connection = new Connection(context, pipe, peer, trust, "lend");
  const shared = Buffer.alloc(70_000);
  return {
    connection,
    output: () => Buffer.concat(pipe.written),
    feed(...pieces) {
      const bytes = Buffer.concat(pieces);
      bytes.copy(shared);
      connection.receive(shared, 0, bytes.length);
      shared.fill(0xdd);
    },
  };
}
