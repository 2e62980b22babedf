import type { ServerResponse } from "node:http";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import type { HttpResponse } from "./peers.ts";

/** Small enough that any client that reads at all moves it within the listener's stall limit. */
const SLICE = 64 * 1024;

/**
 * Writes a response of connect to a response of Node, at the client's reading pace. Headers leave with the first byte
 * of the body, so that a handler can still set some. Rejects if the client disconnects or the handler fails.
 */
export async function writeResponse(from: UniversalServerResponse, to: HttpResponse): Promise<void> {
  const res = to as ServerResponse; // the one type that covers what both have in common
  const body = from.body?.[Symbol.asyncIterator]();
  try {
    let chunk = await body?.next();
    from.header?.set("cache-control", "no-store");
    res.writeHead(from.status, Object.fromEntries(from.header ?? []));
    for (; body !== undefined && chunk?.done === false; chunk = await body.next())
      for (let at = 0; at < chunk.value.length; at += SLICE)
        if (!res.write(chunk.value.subarray(at, at + SLICE))) await drained(res);
    if (from.trailer) res.addTrailers(Object.fromEntries(from.trailer));
    res.end();
  } finally {
    // Tells a handler that is still producing to stop.
    body?.return?.().catch(() => {});
  }
}

function drained(res: ServerResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (settle: () => void) => () => {
      res.off("drain", onDrain);
      res.off("close", onClose);
      settle();
    };
    const onDrain = end(resolve);
    const onClose = end(() => reject(new Error("the client went away")));
    res.once("drain", onDrain);
    res.once("close", onClose);
    if (res.destroyed || res.closed) onClose();
  });
}
