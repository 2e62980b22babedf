import { readFileSync } from "node:fs";
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as h2connect,
  type OutgoingHttpHeaders,
} from "node:http2";
import { connect as netConnect, type Socket } from "node:net";
import { connect as tlsConnect } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type RawConnection, rawConnect } from "../listen/wire.ts";
import { authority } from "./authority.ts";
import { floods } from "./floods.ts";
import { http1 } from "./http1.ts";
import { http2 } from "./http2.ts";
import { rpc } from "./rpc.ts";
import { slow } from "./slow.ts";
import { tls } from "./tls.ts";

/** A running listener, whoever runs it. */
export interface Target {
  readonly port: number;
  /** The CA of a TLS listener. */
  readonly ca?: string;
  /** A unary RPC that the listener answers, with a request of at most 100 bytes. */
  readonly rpc: { readonly path: string; readonly message: Uint8Array };
  /** The process that must stay alive, and how much memory it may ever have had (`VmHWM`), where that can be seen. */
  readonly pid: number;
  readonly rssCapBytes: number;
  /** Whether an HTTP/2 peer that has shaken hands may say nothing: a proxy that is trusted keeps its connections. */
  readonly keepsIdle?: boolean;
  /** A listener for probes: HTTP/1.0 needs no `Host` there (RFC 9112 §3.2). */
  readonly probes?: boolean;
  /** What an ordinary client does; rejects when it is not answered as usual. */
  normalRequest(): Promise<void>;
  close(): Promise<void>;
}

/** One hostile thing. It asserts what the listener answers, if it has to answer; the frame asserts that the listener lives on. */
export interface Case {
  readonly title: string;
  run(target: Target): Promise<void>;
}

const families: Readonly<Record<string, readonly Case[]>> = { authority, http1, http2, floods, rpc, slow };

/**
 * The corpus of hostile bytes against one listener; under TLS, with the attacks on TLS. After every case an ordinary request is answered, the process is the
 * same, and its memory never passed the cap.
 */
export function hostileWire(name: string, transport: "cleartext" | "tls", open: () => Promise<Target>): void {
  describe(`hostile bytes at the ${name}`, () => {
    let target: Target;
    let highest = 0;
    beforeAll(async () => {
      target = await open();
      await target.normalRequest();
    });
    afterAll(() => target.close());
    afterEach(async () => {
      await target.normalRequest();
      process.kill(target.pid, 0); // throws when it is gone
      const peak = peakMemory(target.pid) ?? 0;
      const before = highest;
      highest = Math.max(highest, peak);
      if (peak > before) expect(peak).toBeLessThan(target.rssCapBytes); // blames the first that passes it
    });
    for (const [family, cases] of Object.entries({ ...families, ...(transport === "tls" && { tls }) }))
      describe(family, () => {
        for (const one of cases) test(one.title, () => one.run(target), 60_000);
      });
  });
}

function peakMemory(pid: number): number | undefined {
  try {
    const found = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "latin1"));
    return found ? Number(found[1]) * 1024 : undefined;
  } catch {
    return undefined; // not Linux
  }
}

// -------------------------------------------------------------------------------------------------- tools of the cases

export function dial(target: Target, protocol: "h1" | "h2"): Promise<RawConnection> {
  const ready = new Promise<Socket>((resolve, reject) => {
    const alpn = protocol === "h2" ? "h2" : "http/1.1";
    const options = { host: "localhost", port: target.port, ca: target.ca };
    const socket =
      target.ca === undefined
        ? netConnect(target.port, "127.0.0.1")
        : tlsConnect({ ...options, ALPNProtocols: [alpn] });
    socket.once("error", reject);
    socket.once(target.ca === undefined ? "connect" : "secureConnect", () => resolve(socket));
  });
  return ready.then((socket) => rawConnect(socket));
}

/** Sends HTTP/1.1 bytes; gives the status of the first answer, or 0 when the connection ends without one. */
export async function h1Status(target: Target, bytes: string | Buffer): Promise<number> {
  const raw = await dial(target, "h1");
  raw.socket.write(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes);
  await raw.until((text) => text.includes("\r\n\r\n")).catch(() => {});
  raw.socket.destroy();
  return Number(/^HTTP\/1\.[01] (\d{3})/.exec(raw.text())?.[1] ?? 0);
}

/** Writes in pieces for as long as the other side takes them; ends when everything is written or the other side is gone. */
export async function pour(raw: RawConnection, piece: Buffer, times: number): Promise<void> {
  let gone = false;
  void raw.closed.then(() => (gone = true));
  for (let i = 0; i < times && !gone && raw.socket.writable; i++)
    if (!raw.socket.write(piece))
      await Promise.race([new Promise((resolve) => raw.socket.once("drain", resolve)), raw.closed]);
}

export async function withSession<T>(
  target: Target,
  use: (session: ClientHttp2Session) => Promise<T>,
  options = {},
): Promise<T> {
  const origin = target.ca === undefined ? `http://127.0.0.1:${target.port}` : `https://localhost:${target.port}`;
  const session = h2connect(origin, { ca: target.ca, ...options });
  session.on("error", () => {});
  try {
    return await use(session);
  } finally {
    session.destroy();
  }
}

export interface Answer {
  /** 0 when the stream was reset before an answer. */
  readonly http: number;
  readonly grpc: number | undefined;
}

/** The end of a stream: its answer, or that there is none. */
export function answerOf(stream: ClientHttp2Stream): Promise<Answer> {
  return new Promise((resolve) => {
    const seen: Record<string, string | number | undefined> = {};
    const take = (headers: object): unknown => Object.assign(seen, headers);
    stream
      .on("response", take)
      .on("trailers", take)
      .on("error", () => {});
    stream.on("close", () => {
      const grpc = seen["grpc-status"];
      resolve({ http: Number(seen[":status"] ?? 0), grpc: grpc === undefined ? undefined : Number(grpc) });
    });
    stream.resume();
  });
}

/** One gRPC call with any bytes for a body and any headers. */
export function grpc(
  target: Target,
  body: Uint8Array | undefined,
  headers: OutgoingHttpHeaders = {},
  options: { readonly maxSendHeaderBlockLength?: number } = {},
): Promise<Answer> {
  const call = async (session: ClientHttp2Session): Promise<Answer> => {
    const stream = session.request({
      ":method": "POST",
      ":path": target.rpc.path,
      "content-type": "application/grpc",
      te: "trailers",
      ...headers,
    });
    const answer = answerOf(stream);
    stream.end(body);
    return answer;
  };
  return withSession(target, call, options);
}

export function envelope(message: Uint8Array, flags = 0, length = message.length): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, message]);
}
