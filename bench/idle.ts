import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { residentKiB } from "./machine.ts";
import type { Subject } from "./subject.ts";

const SETTLE_MS = 1_000;
const OPENING = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "latin1");
const ACK = Buffer.from("\0\0\0\x04\x01\0\0\0\0", "latin1");

/** The resident KiB of the server for each of `count` idle HTTP/2 connections. Rejects if one is not served. */
export async function idleKiB(subject: Subject, count: number): Promise<number> {
  const [host, port] = subject.address.split(":");
  const before = residentKiB(subject.pid);
  const sockets: Socket[] = [];
  try {
    for (let at = 0; at < count; at += 100) {
      const group = Array.from({ length: Math.min(100, count - at) }, () => connect({ host, port: Number(port) }));
      sockets.push(...group);
      await Promise.all(
        group.map(async (socket) => {
          socket.on("error", () => {});
          socket.write(OPENING);
          const [first] = await Promise.race([once(socket, "data"), once(socket, "close").then(() => [undefined])]);
          if (first === undefined) throw new Error(`connection ${at} and more were not served`);
          socket.write(ACK);
        }),
      );
    }
    await new Promise((done) => setTimeout(done, SETTLE_MS));
    return (residentKiB(subject.pid) - before) / count;
  } finally {
    for (const socket of sockets) socket.destroy();
  }
}
