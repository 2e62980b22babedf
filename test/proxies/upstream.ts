import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { createServer as createH2, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { type Header, type Seen, UPSTREAM } from "./ask.ts";

/** A service behind a proxy: it answers with what it saw, speaks websocket, and on a port of its own gRPC. */
export interface Upstream {
  readonly port: number;
  readonly grpcPort: number;
  /** Requests that arrived until now, all protocols together. */
  readonly count: number;
  stop(): Promise<void>;
}

export async function startUpstream(): Promise<Upstream> {
  let count = 0;
  const sockets = new Set<Socket>();
  const http = createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
    count++;
    const hash = createHash("sha256");
    let bytes = 0;
    for await (const chunk of request) {
      hash.update(chunk as Buffer);
      bytes += (chunk as Buffer).length;
    }
    const headers: Header[] = [];
    for (let i = 0; i < request.rawHeaders.length; i += 2) {
      headers.push([request.rawHeaders[i]!, request.rawHeaders[i + 1]!]);
    }
    const seen: Seen = { method: request.method!, url: request.url!, headers, bytes, sha256: hash.digest("hex") };
    response.writeHead(200, { [UPSTREAM]: "yes", "content-type": "application/json" });
    response.end(Buffer.from(JSON.stringify(seen), "latin1"));
  });
  http.on("upgrade", (_request, socket, head) => {
    count++;
    socket.on("error", () => {});
    socket.write("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
    socket.write(head);
    socket.pipe(socket);
  });
  const grpc = createH2();
  grpc.on("stream", (stream: ServerHttp2Stream) => {
    count++;
    stream.on("error", () => {});
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.pipe(stream);
  });
  for (const server of [http, grpc]) {
    server.on("connection", (socket: Socket) => {
      sockets.add(socket);
      socket.on("close", () => sockets.delete(socket));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
  }
  return {
    port: (http.address() as AddressInfo).port,
    grpcPort: (grpc.address() as AddressInfo).port,
    get count() {
      return count;
    },
    stop: async () => {
      for (const socket of sockets) socket.destroy();
      await Promise.all([http, grpc].map((server) => new Promise((resolve) => server.close(resolve))));
    },
  };
}
