import type { ConnectionPeer } from "../unary/routes.ts";
import { GOAWAY, MAX_STREAM_ID, NO_ERROR, PING, writeUint32 } from "../wire/frame.ts";
import type { Link } from "./context.ts";
import type { Pipe } from "./output.ts";

/** The second half of the eight octets of our PINGs; the first is 0. */
const KEEPALIVE = 0x6b656570;
const ROUND_TRIP = 0x74726970;

type Phase = "serving" | "announced" | "leaving";

export interface LifetimeLink extends Link {
  readonly pipe: Pipe;
  readonly peer: ConnectionPeer;
  /** Our last frame is out. */
  readonly over: boolean;
  readonly settings: { readonly received: boolean };
  readonly streams: OpenStreams;
  /** Says nothing more. */
  finish(): void;
}

/** The streams that are still to be answered. */
interface OpenStreams {
  readonly isEmpty: boolean;
  readonly lastServed: number;
  readonly sender: { readonly heldBack: boolean };
}

/** Ends a connection that is idle, old, silent or without a preface, and drains it in two phases. */
export class Lifetime {
  /** When the socket fell behind; meaningful while the sender is held back. */
  heldBackAt = 0;
  private readonly connection: LifetimeLink;
  private readonly born: number;
  private readonly oldest: number;
  private phase: Phase = "serving";
  private announcedAt = 0;
  private heardAt: number;
  private busyAt: number;
  private pingedAt = 0;
  private peerLeaves = false;
  private lingering: NodeJS.Timeout | undefined;
  private settling: NodeJS.Timeout | undefined;

  constructor(connection: LifetimeLink) {
    this.connection = connection;
    this.born = connection.now;
    this.heardAt = this.born;
    this.busyAt = this.born;
    this.oldest = connection.server.limits.ageMs * (0.9 + Math.random() * 0.2);
  }

  heard(): void {
    this.heardAt = this.connection.now;
    this.pingedAt = 0;
  }

  /** A request came. */
  busy(): void {
    this.busyAt = this.connection.now;
  }

  peerIsLeaving(): void {
    this.peerLeaves = true;
  }

  /** True until the GOAWAY that names the last stream: new streams are served. */
  get takesStreams(): boolean {
    return this.phase !== "leaving";
  }

  /**
   * Ends the connection without losing a request (RFC 9113 §6.8): GOAWAY that promises everything, a round trip and a
   * moment so that whatever crossed it has arrived, GOAWAY that names the last request served, the answers, the end.
   */
  drain(): void {
    if (this.phase !== "serving") return;
    this.phase = "announced";
    this.announcedAt = performance.now();
    this.connection.act(() => {
      if (this.connection.over) return;
      this.goaway(MAX_STREAM_ID);
      this.ping(ROUND_TRIP);
    });
  }

  /** A PING came back; false when it was none of ours. */
  pong(mark: number): boolean {
    if (mark === ROUND_TRIP && this.phase === "announced") {
      const leave = () => this.connection.act(() => this.leave());
      this.settling ??= setTimeout(leave, this.connection.server.limits.settleMs);
      return true;
    }
    return mark === KEEPALIVE;
  }

  /** The last open stream is done. */
  idle(): void {
    if (this.phase === "leaving") this.connection.finish();
  }

  /** Looks at the clock. */
  tick(now: number): void {
    const { limits } = this.connection.server;
    const { settings, streams, trusted } = this.connection;
    if (this.connection.over) return;
    if (!settings.received) {
      if (now - this.born > limits.prefaceMs) this.cut("no preface");
    } else if (streams.sender.heldBack) {
      if (now - this.heldBackAt > limits.undrainedMs) this.cut("answers not read");
    } else if (this.pingedAt > 0 && now - this.pingedAt > limits.keepaliveTimeoutMs) this.cut("PING not answered");
    else if (this.phase === "announced" && now - this.announcedAt > limits.roundTripMs) {
      this.connection.act(() => this.leave());
    } else if (this.peerLeaves && streams.isEmpty) this.connection.act(() => this.connection.finish());
    else if (!trusted && streams.isEmpty && now - this.busyAt > limits.idleMs) this.drain();
    else if (!trusted && now - this.born > this.oldest) this.drain();
    else if (this.pingedAt === 0 && now - this.heardAt > limits.keepaliveMs) {
      this.pingedAt = now;
      this.connection.act(() => this.ping(KEEPALIVE));
    }
  }

  /** The peer does not do what every peer does; nothing it would read can be said to it. */
  private cut(reason: string): void {
    const { server, peer, pipe } = this.connection;
    server.stats.connectionErrors++;
    server.connectionError({ code: undefined, reason, peer });
    pipe.destroy();
  }

  /** Our side has ended; the peer gets a moment to read it and to end its own. */
  linger(): void {
    this.lingering ??= setTimeout(() => this.connection.pipe.destroy(), this.connection.server.limits.lingerMs);
    this.lingering.unref();
  }

  closed(): void {
    clearTimeout(this.lingering);
    clearTimeout(this.settling);
  }

  private leave(): void {
    if (this.phase === "leaving" || this.connection.over) return;
    this.phase = "leaving";
    this.goaway(this.connection.streams.lastServed);
    if (this.connection.streams.isEmpty) this.connection.finish();
  }

  private goaway(lastId: number): void {
    const { output } = this.connection;
    const at = output.frame(8, GOAWAY, 0, 0);
    writeUint32(output.bytes, at, lastId);
    writeUint32(output.bytes, at + 4, NO_ERROR);
  }

  private ping(mark: number): void {
    const { output } = this.connection;
    const at = output.frame(8, PING, 0, 0);
    writeUint32(output.bytes, at, 0);
    writeUint32(output.bytes, at + 4, mark);
  }
}
