// The three servers that answer the same routes, behind one way to ask.
import { createServer, request as httpRequest } from "node:http";
import { type ClientHttp2Session, connect, createServer as createHttp2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { mountHttp1 } from "../../src/http2/unary/mount-http1.ts";
import { mountNode } from "../../src/http2/unary/mount-node.ts";
import type { Routes } from "../../src/http2/unary/routes.ts";
import { createUnaryListener } from "./unary-listener.ts";

export interface Ask {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string | string[]>>;
  readonly body: Uint8Array;
  /** Instead of the one the client would send. */
  readonly authority?: string;
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly trailers: Readonly<Record<string, unknown>>;
  readonly body: Buffer;
}

export interface Mount {
  readonly port: number;
  ask(ask: Ask): Promise<Answer>;
  stop(): Promise<void>;
}

export const mounts = {
  own: async (routes: Routes): Promise<Mount> => {
    const { listener, server } = createUnaryListener({
      routes,
      trust: "trusted",
      onHttp1: (socket) => socket.destroy(),
    });
    const port = await listening(listener);
    return http2Mount(port, async () => {
      server.close();
      await new Promise((resolve) => listener.close(resolve));
    });
  },
  "node:http2": async (routes: Routes): Promise<Mount> => {
    const server = createHttp2Server({ settings: { initialWindowSize: 1 << 20 } }).on("stream", mountNode({ routes }));
    const port = await listening(server);
    return http2Mount(port, async () => {
      await new Promise((resolve) => server.close(resolve));
    });
  },
  "node:http": async (routes: Routes): Promise<Mount> => {
    const server = createServer({ requireHostHeader: false }, mountHttp1({ routes }));
    const port = await listening(server);
    return {
      port,
      ask: (ask) => http1Ask(port, ask),
      stop: async () => {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      },
    };
  },
} satisfies Record<string, (routes: Routes) => Promise<Mount>>;

function listening(server: {
  listen(port: number, host: string, done: () => void): unknown;
  address(): unknown;
}): Promise<number> {
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port)));
}

function http2Mount(port: number, stop: () => Promise<void>): Mount {
  const session = connect(`http://127.0.0.1:${port}`);
  return {
    port,
    ask: (ask) => http2Ask(session, ask),
    stop: async () => {
      session.destroy();
      await stop();
    },
  };
}

function http2Ask(session: ClientHttp2Session, ask: Ask): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const authority = ask.authority === undefined ? {} : { ":authority": ask.authority };
    const endStream = ask.body.length === 0;
    const stream = session.request(
      { ":method": ask.method, ":path": ask.path, ...authority, ...ask.headers },
      { endStream },
    );
    let headers: Record<string, unknown> = {};
    let trailers: Record<string, unknown> = {};
    const chunks: Buffer[] = [];
    stream.on("response", (fields) => {
      headers = plain(fields);
    });
    stream.on("trailers", (fields) => {
      trailers = plain(fields);
    });
    stream.on("data", (bytes: Buffer) => chunks.push(bytes));
    stream.on("error", reject);
    stream.on("close", () => {
      const { ":status": status, ...rest } = headers;
      resolve({ status: Number(status), headers: rest, trailers, body: Buffer.concat(chunks) });
    });
    if (!endStream) stream.end(ask.body);
  });
}

function http1Ask(port: number, ask: Ask): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers: Record<string, string | string[]> = { ...ask.headers };
    if (ask.authority !== undefined) headers["host"] = ask.authority;
    if (ask.body.length > 0) headers["content-length"] = String(ask.body.length);
    const request = httpRequest({ port, host: "127.0.0.1", method: ask.method, path: ask.path, headers, agent: false });
    let answered = false;
    request.on("response", (response) => {
      answered = true;
      const chunks: Buffer[] = [];
      response.on("data", (bytes: Buffer) => chunks.push(bytes));
      response.on("end", () =>
        resolve({
          status: response.statusCode!,
          headers: plain(response.headers),
          trailers: {},
          body: Buffer.concat(chunks),
        }),
      );
    });
    // The server may end the connection under a body it does not want; the answer is there all the same.
    request.on("error", (error) => answered || reject(error));
    request.end(ask.body);
  });
}

/** Without what only says how the connection is kept. */
function plain(fields: object): Record<string, unknown> {
  const {
    date,
    connection,
    "keep-alive": keep,
    "transfer-encoding": coding,
    ...rest
  } = fields as Record<string, unknown>;
  void [date, connection, keep, coding];
  return Object.fromEntries(Object.entries(rest));
}
