import * as frames from "../wire/frame.ts";
import type { PeerSettings } from "../wire/settings.ts";
import type { Link } from "./context.ts";
import type { Lifetime } from "./lifetime.ts";
import type { Streams } from "./streams.ts";

/** The cost of frames that cause work and are no request. */
const COST = { settings: 2, ping: 1, priority: 1, unknown: 1, windowUpdate: 0.1, smallWindowUpdate: 1 };
const SMALL_UPDATE = 1_024;

/** The frames that carry nothing of a request (RFC 9113 §6.3 to §6.9). */
export class ControlFrames {
  private readonly connection: Link;
  private readonly streams: Streams;
  private readonly peerSettings: PeerSettings;
  private readonly lifetime: Lifetime;

  constructor(connection: Link, streams: Streams, settings: PeerSettings, lifetime: Lifetime) {
    this.connection = connection;
    this.streams = streams;
    this.peerSettings = settings;
    this.lifetime = lifetime;
  }

  frame(type: number, flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    const { connection } = this;
    const length = end - start;
    switch (type) {
      case frames.PRIORITY:
        this.priority(id, bytes, start, length);
        return;
      case frames.RST_STREAM:
        if (length !== 4) connection.fail(frames.FRAME_SIZE_ERROR, "RST_STREAM");
        else this.streams.reset(id);
        return;
      case frames.SETTINGS:
        this.settings(flags, id, bytes, start, end);
        return;
      case frames.PING:
        this.ping(flags, id, bytes, start, end);
        return;
      case frames.GOAWAY:
        if (id !== 0) connection.fail(frames.PROTOCOL_ERROR, "GOAWAY on a stream");
        else if (length < 8) connection.fail(frames.FRAME_SIZE_ERROR, "GOAWAY");
        else if (connection.spend(COST.unknown)) this.lifetime.peerIsLeaving();
        return;
      case frames.WINDOW_UPDATE:
        this.windowUpdate(id, bytes, start, length);
        return;
      default:
        connection.spend(COST.unknown); // RFC 9113 §4.1: unknown types are ignored
    }
  }

  private priority(id: number, bytes: Buffer, start: number, length: number): void {
    const { connection } = this;
    if (id === 0) connection.fail(frames.PROTOCOL_ERROR, "PRIORITY on stream 0");
    else if (!connection.spend(COST.priority)) return;
    else if (length !== 5) this.streams.fail(id, frames.FRAME_SIZE_ERROR);
    else if (frames.readUint31(bytes, start) === id) this.streams.fail(id, frames.PROTOCOL_ERROR);
  }

  private settings(flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    const { connection } = this;
    const wrong = this.peerSettings.check(flags, id, end - start);
    if (wrong !== undefined) {
      connection.fail(wrong, "SETTINGS");
      return;
    }
    if (!connection.spend(COST.settings)) return;
    if ((flags & frames.ACK) !== 0) {
      this.peerSettings.acknowledged = true;
      return;
    }
    const code = this.peerSettings.apply(bytes, start, end, this.streams);
    if (code !== frames.NO_ERROR) {
      connection.fail(code, "SETTINGS value");
      return;
    }
    connection.output.frame(0, frames.SETTINGS, frames.ACK, 0);
    this.streams.sender.pump();
  }

  private ping(flags: number, id: number, bytes: Buffer, start: number, end: number): void {
    const { connection } = this;
    if (id !== 0) connection.fail(frames.PROTOCOL_ERROR, "PING on a stream");
    else if (end - start !== 8) connection.fail(frames.FRAME_SIZE_ERROR, "PING");
    else if ((flags & frames.ACK) !== 0) {
      if (!this.lifetime.pong(bytes.readUInt32BE(start + 4))) connection.spend(COST.ping);
    } else if (connection.spend(COST.ping)) {
      const at = connection.output.frame(8, frames.PING, frames.ACK, 0);
      connection.output.bytes.set(bytes.subarray(start, end), at);
    }
  }

  private windowUpdate(id: number, bytes: Buffer, start: number, length: number): void {
    const { connection } = this;
    if (length !== 4) {
      connection.fail(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE");
      return;
    }
    const octets = frames.readUint31(bytes, start);
    if (!connection.spend(octets < SMALL_UPDATE ? COST.smallWindowUpdate : COST.windowUpdate)) return;
    const { sender } = this.streams;
    if (id !== 0) this.streams.widen(id, octets);
    else if (octets === 0) connection.fail(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of 0");
    else if (!sender.widen(octets)) connection.fail(frames.FLOW_CONTROL_ERROR, "window beyond 2^31-1");
    else sender.pump();
  }
}
