import type { Handler } from "../../../src/http2/unary/routes.ts";
import { createUnaryListener } from "../../../test/http2/unary-listener.ts";
import { listen, VALIDATE } from "./work.ts";

/** Serves ValidateToken on the built-in HTTP/2 server. */
export function serveOwn(handler: Handler): void {
  const { listener } = createUnaryListener({
    routes: { exact: new Map([[VALIDATE, { handler, maxMessage: 65_536, deadlineMs: 2_000 }]]), prefix: [] },
    trust: "trusted",
    onHttp1: (socket) => socket.destroy(),
  });
  listen(listener);
}
