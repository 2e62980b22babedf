import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { describe, expect, test, vi } from "vitest";
import {
  TokenValidator,
  ValidateTokenRequestSchema,
  ValidateTokenResponseSchema,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { createUnaryServer } from "../../src/http2/server/server.ts";
import { mountHttp1 } from "../../src/http2/unary/mount-http1.ts";
import { mountNode } from "../../src/http2/unary/mount-node.ts";
import { connectMessage, grpcMessage } from "../../src/http2/unary/reply.ts";
import type { Handler, Routes } from "../../src/http2/unary/routes.ts";
import { listenerLimits } from "../../src/listen/limits.ts";
import { type ListenerOptions, openListener } from "../../src/listen/listener.ts";
import type { HttpHandler } from "../../src/listen/peers.ts";
import { VALIDATE } from "./echo-listener.ts";

const handler: Handler = (message, { protocol }) => {
  const { tokenString } = fromBinary(ValidateTokenRequestSchema, message);
  const bytes = toBinary(ValidateTokenResponseSchema, create(ValidateTokenResponseSchema, { reason: tokenString }));
  return protocol === "grpc" ? grpcMessage(bytes) : connectMessage(bytes, "application/proto");
};
const routes: Routes = { exact: new Map([[VALIDATE, { handler, maxMessage: 65_536, deadlineMs: 2_000 }]]), prefix: [] };

async function serve(more: Partial<ListenerOptions>) {
  return openListener({
    name: "data",
    bind: "127.0.0.1:0",
    limits: listenerLimits("data-trusted"),
    handler: mountHttp1({ routes }) as HttpHandler,
    onTrouble: (what, error) => {
      throw new Error(what, { cause: error });
    },
    ...more,
  });
}

async function askBoth(port: number): Promise<string[]> {
  const baseUrl = `http://127.0.0.1:${port}`;
  const transports = [
    createGrpcTransport({ baseUrl }),
    createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: true }),
    createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: true }),
  ];
  return Promise.all(
    transports.map(
      async (one, n) => (await createClient(TokenValidator, one).validateToken({ tokenString: `${n}` })).reason,
    ),
  );
}

describe("a listener that hands HTTP/2 to another server", () => {
  test("serves both protocols, drains the other server too, and keeps no socket", async () => {
    const own = createUnaryServer({ routes });
    const peers: string[] = [];
    const listener = await serve({
      http2: (socket, head, peer) => {
        peers.push(peer.from);
        own.accept(socket, head, "trusted");
      },
    });
    expect(await askBoth(listener.port)).toEqual(["0", "1", "2"]);
    expect(peers).toEqual(["loopback", "loopback"]);
    await Promise.all([own.drain(2_000), listener.drain(3_000)]);
    expect(listener.stats().sockets).toBe(0);
  });

  test("counts its connections while they live", async () => {
    const own = createUnaryServer({ routes });
    const listener = await serve({ http2: (socket, head) => own.accept(socket, head, "trusted") });
    await askBoth(listener.port);
    expect(listener.stats().sockets).toBeGreaterThanOrEqual(2);
    own.close();
    await vi.waitFor(() => expect(listener.stats().sockets).toBeLessThan(2));
    await listener.close();
  });

  test("or hands single streams to the same routes on node:http2", async () => {
    const listener = await serve({ onStream: mountNode({ routes }) as NonNullable<ListenerOptions["onStream"]> });
    expect(await askBoth(listener.port)).toEqual(["0", "1", "2"]);
    await listener.drain(3_000);
    expect(listener.stats()).toMatchObject({ sockets: 0, sessions: 0 });
  });

  test("a stream listener that throws loses its stream, not the process", async () => {
    const troubles: string[] = [];
    const listener = await serve({
      onStream: () => {
        throw new Error("bug");
      },
      onTrouble: (what) => troubles.push(what),
    });
    const client = createClient(TokenValidator, createGrpcTransport({ baseUrl: `http://127.0.0.1:${listener.port}` }));
    await expect(client.validateToken({})).rejects.toThrow();
    expect(troubles).toEqual(["handler_failed"]);
    await listener.close();
  });
});
