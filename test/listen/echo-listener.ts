import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { TokenValidator, Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { ByteBudget } from "../../src/http2/server/limits.ts";
import { type ConnectListenerOptions, connectHandler } from "../../src/listen/connect-adapter.ts";
import { type ListenerLimits, listenerLimits } from "../../src/listen/limits.ts";
import { type Listener, type ListenerOptions, openListener } from "../../src/listen/listener.ts";

export const VALIDATE = "/sallyport.v1.TokenValidator/ValidateToken";

export interface EchoListener extends Listener {
  readonly url: string;
  readonly troubles: { what: string; error: unknown }[];
  readonly limits: ListenerLimits;
  readonly budget: ByteBudget;
}

/** A real listener with a validator that answers ALLOW and gives the token string back as the reason. */
export async function openEchoListener(
  options: Partial<ListenerOptions> & { rpc?: Partial<ConnectListenerOptions> } = {},
): Promise<EchoListener> {
  const troubles: EchoListener["troubles"] = [];
  const limits = options.limits ?? listenerLimits("admin");
  const budget = options.rpc?.budget ?? new ByteBudget(limits.bufferedBytes);
  const listener = await openListener({
    name: "admin",
    bind: "127.0.0.1:0",
    handler: connectHandler({
      routes: (router) => {
        router.service(TokenValidator, {
          validateToken: ({ tokenString }) => ({ verdict: Verdict.ALLOW, reason: tokenString }),
          batchValidateTokens: ({ requests }) => ({
            responses: requests.map(({ tokenString }) => ({ verdict: Verdict.ALLOW, reason: tokenString })),
          }),
        });
        router.service(TokenAdmin, { getToken: ({ id }) => ({ token: { id } }) });
      },
      streamsPerConnection: limits.streamsPerConnection,
      grpcWeb: true,
      ...options.rpc,
      budget,
    }),
    onTrouble: (what, error) => troubles.push({ what, error }),
    ...options,
    limits,
  });
  const url = `${options.tls ? "https" : "http"}://127.0.0.1:${listener.port}`;
  return { ...listener, url, troubles, limits, budget };
}

/** A client for each protocol that the listener speaks. */
export function clients(url: string): Record<string, Client<typeof TokenValidator>> {
  const transports: Record<string, Transport> = {
    gRPC: createGrpcTransport({ baseUrl: url }),
    "Connect over HTTP/1.1": createConnectTransport({ baseUrl: url, httpVersion: "1.1" }),
    "Connect over HTTP/2": createConnectTransport({ baseUrl: url, httpVersion: "2", useBinaryFormat: true }),
    "gRPC-Web": createGrpcWebTransport({ baseUrl: url, httpVersion: "1.1" }),
  };
  return Object.fromEntries(Object.entries(transports).map(([name, one]) => [name, createClient(TokenValidator, one)]));
}

/** An HTTP/1.1 request as text; the connection closes after the answer. */
export function h1Request(path: string, body = "{}", headers: readonly string[] = []): string {
  return [
    `POST ${path} HTTP/1.1`,
    "Host: localhost",
    "Content-Type: application/json",
    `Content-Length: ${Buffer.byteLength(body)}`,
    "Connection: close",
    ...headers,
    "",
    body,
  ].join("\r\n");
}
