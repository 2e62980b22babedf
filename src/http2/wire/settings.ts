import type { Limits } from "../server/limits.ts";
import {
  ACK,
  ENHANCE_YOUR_CALM,
  FLOW_CONTROL_ERROR,
  FRAME_SIZE_ERROR,
  frameOf,
  INITIAL_WINDOW,
  MAX_FRAME,
  MAX_WINDOW,
  NO_ERROR,
  PROTOCOL_ERROR,
  readUint32,
  SETTINGS,
  WINDOW_UPDATE,
  writeUint32,
} from "./frame.ts";

const HEADER_TABLE_SIZE = 1;
const ENABLE_PUSH = 2;
const MAX_CONCURRENT_STREAMS = 3;
const INITIAL_WINDOW_SIZE = 4;
const MAX_FRAME_SIZE = 5;
const MAX_HEADER_LIST_SIZE = 6;
const LARGEST_FRAME_SIZE = 0xffffff;
const ENTRY = 6;
const MOST_ENTRIES = 32;

/** The first frames of a server: its SETTINGS, and a connection window that never limits a request. */
export function settingsFrames(limits: Limits, initialWindow: number): Buffer {
  const entries: [number, number][] = [
    [MAX_CONCURRENT_STREAMS, limits.maxConcurrentStreams],
    [INITIAL_WINDOW_SIZE, initialWindow],
    [MAX_HEADER_LIST_SIZE, limits.maxHeaderList],
  ];
  const payload = Buffer.alloc(entries.length * ENTRY);
  entries.forEach(([key, value], at) => {
    payload.writeUInt16BE(key, at * ENTRY);
    payload.writeUInt32BE(value, at * ENTRY + 2);
  });
  const increment = Buffer.alloc(4);
  writeUint32(increment, 0, MAX_WINDOW - INITIAL_WINDOW);
  return Buffer.concat([frameOf(SETTINGS, 0, 0, payload), frameOf(WINDOW_UPDATE, 0, 0, increment)]);
}

/** The part of a connection that follows the peer's settings. */
export interface SettingsTarget {
  /** False when a window would exceed 2^31-1. */
  setInitialWindow(octets: number): boolean;
  setTableSize(octets: number): void;
}

/** The peer's SETTINGS (RFC 9113 §6.5), as far as a server that never pushes heeds them. */
export class PeerSettings {
  /** The peer's first SETTINGS has come. */
  received = false;
  /** Ours are in force at the peer. */
  acknowledged = false;

  /** The error code of a frame that must not be read further. */
  check(flags: number, id: number, length: number): number | undefined {
    if (id !== 0) return PROTOCOL_ERROR;
    if ((flags & ACK) !== 0) return this.received ? (length === 0 ? undefined : FRAME_SIZE_ERROR) : PROTOCOL_ERROR;
    if (length % ENTRY !== 0) return FRAME_SIZE_ERROR;
    return length > MOST_ENTRIES * ENTRY ? ENHANCE_YOUR_CALM : undefined;
  }

  /** Takes the settings over in their order; returns NO_ERROR or the code of the connection error. */
  apply(bytes: Buffer, start: number, end: number, target: SettingsTarget): number {
    this.received = true;
    for (let at = start; at < end; at += ENTRY) {
      const key = (bytes[at]! << 8) | bytes[at + 1]!;
      const value = readUint32(bytes, at + 2);
      if (key === HEADER_TABLE_SIZE) target.setTableSize(value);
      else if (key === ENABLE_PUSH && value > 1) return PROTOCOL_ERROR;
      else if (key === INITIAL_WINDOW_SIZE) {
        if (value > MAX_WINDOW || !target.setInitialWindow(value)) return FLOW_CONTROL_ERROR;
      } else if (key === MAX_FRAME_SIZE && (value < MAX_FRAME || value > LARGEST_FRAME_SIZE)) return PROTOCOL_ERROR;
    }
    return NO_ERROR;
  }
}
