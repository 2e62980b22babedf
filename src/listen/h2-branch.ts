import {
  constants,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { Socket } from "node:net";
import type { ListenerLimits } from "./limits.ts";
import type { HttpHandler } from "./peers.ts";

const CONTROL_WINDOW_MS = 10_000;
/** After GOAWAY: the time that open streams get before the session is destroyed. */
const CLOSE_GRACE_MS = 15_000;
/** Resets that the library still takes while a client that resets too much is asked to leave. */
const BEYOND_RESETS = 1_000;
/** The time between the announcement that no new streams are wanted and their refusal. */
const GOAWAY_ROUND_TRIP_MS = 200;

// GOAWAY, stream 0, last stream id 2^31-1, NO_ERROR (RFC 9113 §6.8): "send no more; what is on the wire is served".
const GOAWAY_MAX = Buffer.from([0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

export interface H2Branch {
  readonly server: Http2Server;
  /** Takes over a connection whose first bytes are the preface; they were put back with `unshift`. */
  accept(socket: Socket): void;
  readonly sessions: number;
  /** Asks every session to end after its open streams. */
  closeAll(): void;
}

/** A listener for the event "stream" of `node:http2`. */
export type StreamHandler = (
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  flags: number,
  rawHeaders: string[],
) => void;

interface Hooks {
  onSession(session: ServerHttp2Session, socket: Socket): void;
  onRefused(): void;
  /** A stream listener threw, and its stream was reset. */
  onTrouble(error: unknown): void;
}

/**
 * The HTTP/2 half of a listener on Node's own server, with the limits that it lacks: time, age, idleness, control
 * frames.
 */
export function h2Branch(
  limits: ListenerLimits,
  answer: HttpHandler | StreamHandler,
  by: "requests" | "streams",
  hooks: Hooks,
): H2Branch {
  const { h2 } = limits;
  const server = createServer(
    {
      maxSessionMemory: 10,
      maxHeaderListPairs: h2.maxHeaders,
      maxSettings: 32,
      maxOutstandingPings: 10,
      maxSessionInvalidFrames: 50,
      // Beyond these the library ends the connection with INTERNAL_ERROR, and every call on it, so `police` acts first.
      // Streams that were reset at once count as open until their turn, so that later ones are rejected.
      maxSessionRejectedStreams: h2.maxRejectedStreams + BEYOND_RESETS,
      streamResetBurst: h2.resetBurst + BEYOND_RESETS,
      streamResetRate: h2.resetsPerSecond * 2,
      settings: {
        maxConcurrentStreams: h2.maxConcurrentStreams,
        maxHeaderListSize: h2.maxHeaderBytes,
        enablePush: false,
        enableConnectProtocol: false,
      },
    },
    by === "requests" ? (answer as HttpHandler) : undefined,
  );
  const closers = new Set<() => void>();
  server.on("sessionError", () => hooks.onRefused());
  server.on("stream", (stream, headers, flags, rawHeaders) => {
    stream.on("error", () => {});
    if (by === "requests") return;
    try {
      (answer as StreamHandler)(stream, headers, flags, rawHeaders as unknown as string[]);
    } catch (error) {
      hooks.onTrouble(error);
      stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    }
  });
  let accepting: Socket | undefined;
  server.on("session", (session: ServerHttp2Session) => {
    const socket = accepting!;
    const close = () => closeGracefully(session, socket);
    closers.add(close);
    session.once("close", () => closers.delete(close));
    session.on("error", () => hooks.onRefused());
    hooks.onSession(session, socket);
    police(session, limits, close);
  });
  return {
    server,
    accept(socket) {
      accepting = socket;
      server.emit("connection", socket); // "session" is emitted inside
      accepting = undefined;
    },
    get sessions() {
      return closers.size;
    },
    closeAll() {
      for (const close of closers) close();
    },
  };
}

/** Enforces time, age, idleness, silence, resets and control frames of one session. */
function police(session: ServerHttp2Session, limits: ListenerLimits, close: () => void): void {
  const { h2 } = limits;
  const timers = new Set<NodeJS.Timeout>();
  const after = (ms: number, act: () => void): NodeJS.Timeout => {
    const timer = setTimeout(act, ms).unref();
    timers.add(timer);
    return timer;
  };
  const cancel = (timer: NodeJS.Timeout): void => {
    clearTimeout(timer);
    timers.delete(timer);
  };
  let open = 0;
  let resets = h2.resetBurst;
  /** Too many resets end the connection once the calls in progress are answered, because those may belong to others. */
  const onReset = (): void => {
    if (--resets < 0) close();
  };
  let idle = after(limits.firstRequestMs, close);
  session.on("stream", (stream) => {
    open++;
    cancel(idle);
    stream.once("aborted", onReset);
    stream.once("close", () => {
      open--;
      if (open === 0 && h2.idleMs > 0 && !session.closed) {
        cancel(idle);
        idle = after(h2.idleMs, close);
      }
    });
  });
  if (h2.ageMs > 0) after(h2.ageMs * (0.9 + Math.random() * 0.2), close); // jitter, not a secret
  let control = 0;
  const window = setInterval(() => {
    control = 0;
    resets = Math.min(h2.resetBurst, resets + (h2.resetsPerSecond * CONTROL_WINDOW_MS) / 1_000);
  }, CONTROL_WINDOW_MS).unref();
  const count = (): void => {
    if (++control > h2.maxControlFrames) session.destroy();
  };
  session.on("ping", count);
  session.on("remoteSettings", count);
  const pings = h2.pingMs > 0 ? setInterval(() => ping(session, h2.pingTimeoutMs), h2.pingMs).unref() : undefined;
  session.once("close", () => {
    for (const timer of timers) clearTimeout(timer);
    clearInterval(window);
    clearInterval(pings);
  });
}

function ping(session: ServerHttp2Session, timeoutMs: number): void {
  if (session.destroyed || session.closed) return;
  const gone = setTimeout(() => session.destroy(), timeoutMs).unref();
  session.ping(() => clearTimeout(gone)); // also called, with an error, when the session ends
}

/**
 * Loses no request: GOAWAY(2^31-1), a round trip, then GOAWAY(last), and the end after the last stream. The first frame
 * goes to the bare socket, because `session.goaway()` would make the session ignore later streams. On TLS that write
 * would abort the process, so `close()` alone must do there.
 */
function closeGracefully(session: ServerHttp2Session, socket: Socket): void {
  if (session.closed || session.destroyed) return;
  const finish = (): void => {
    if (session.closed || session.destroyed) return;
    session.close();
    const grace = setTimeout(() => session.destroy(), CLOSE_GRACE_MS).unref();
    session.once("close", () => clearTimeout(grace));
  };
  if (session.encrypted || socket.destroyed || !socket.writable) {
    finish();
  } else {
    socket.write(GOAWAY_MAX);
    setTimeout(finish, GOAWAY_ROUND_TRIP_MS).unref();
  }
}
