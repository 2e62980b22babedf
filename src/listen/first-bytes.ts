import type { Socket } from "node:net";

const PREFACE_START = Buffer.from("PRI"); // of the HTTP/2 preface (RFC 9113 §3.4); no HTTP/1 method is called so

/**
 * Reads a connection until its protocol is certain and hands it over, with the bytes read, exactly once. Destroys a
 * connection whose protocol is not certain within `timeoutMs`, or that ends or fails before.
 */
export function onFirstBytes(
  socket: Socket,
  timeoutMs: number,
  decided: (protocol: "h1" | "h2", head: Buffer) => void,
): void {
  let head: Buffer = Buffer.alloc(0);
  const timer = setTimeout(() => socket.destroy(), timeoutMs);
  const giveUp = (): void => {
    clearTimeout(timer);
    socket.destroy();
  };
  const read = (): void => {
    for (let chunk: Buffer | null; (chunk = socket.read() as Buffer | null) !== null; )
      head = head.length === 0 ? chunk : Buffer.concat([head, chunk]);
    const known = Math.min(PREFACE_START.length, head.length);
    const h2 = PREFACE_START.subarray(0, known).equals(head.subarray(0, known));
    if (known === 0 || (h2 && known < PREFACE_START.length)) return; // "P" is POST, PUT or PRI
    clearTimeout(timer);
    socket.off("readable", read);
    socket.off("end", giveUp);
    socket.off("close", giveUp);
    decided(h2 ? "h2" : "h1", head);
  };
  socket.on("readable", read);
  socket.once("end", giveUp);
  socket.once("close", giveUp);
}
