import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { PassThrough, Readable } from "node:stream";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { runCli } from "../../src/cli/main.ts";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";

/** A listener that speaks the protocol and gives the answers of the test. The client sees nothing else of Sallyport. */
export interface Peer extends AsyncDisposable {
  /** For `--address`. */
  readonly address: string;
  /** The headers of the calls, in order. */
  readonly headers: readonly IncomingHttpHeaders[];
}

/** Listens on a free port of the loopback, or on a unix socket if a path is given. */
export async function peer(routes: (router: ConnectRouter) => void, socketPath?: string): Promise<Peer> {
  const headers: IncomingHttpHeaders[] = [];
  const handler = connectNodeAdapter({ routes });
  const server = createServer((request, response) => {
    headers.push(request.headers);
    handler(request, response);
  });
  await new Promise<void>((resolve) =>
    socketPath === undefined ? server.listen(0, "127.0.0.1", resolve) : server.listen(socketPath, resolve),
  );
  const address =
    socketPath === undefined ? `http://127.0.0.1:${(server.address() as AddressInfo).port}` : `unix:${socketPath}`;
  return {
    address,
    headers,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Runs the command line as `main.ts` does. `SALLYPORT_TOKEN` is `secret-of-the-caller` unless `env` says otherwise. */
export async function cli(argv: readonly string[], given: { stdin?: string; env?: Record<string, string> } = {}) {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const exit = await runCli(argv, {
    stdin: Readable.from([Buffer.from(given.stdin ?? "")]),
    stdout,
    stderr,
    env: { SALLYPORT_TOKEN: "secret-of-the-caller", ...given.env },
    version: "sallyport 1.2.3 (commit 0a1b2c3, node v24.0.0)",
  });
  return { exit, out: textOf(stdout), err: textOf(stderr) };
}

/** An RPC error in the form of the API: one ErrorInfo of the domain, and further details. */
export function apiError(
  code: Code,
  reason: string,
  message: string,
  more: {
    metadata?: Record<string, string>;
    violations?: { field: string; description: string }[];
    retry?: number;
  } = {},
): ConnectError {
  return new ConnectError(message, code, undefined, [
    { desc: ErrorInfoSchema, value: { domain: "sallyport", reason, metadata: more.metadata ?? {} } },
    ...(more.violations ? [{ desc: BadRequestSchema, value: { fieldViolations: more.violations } }] : []),
    ...(more.retry ? [{ desc: RetryInfoSchema, value: { retryDelay: { seconds: BigInt(more.retry) } } }] : []),
  ]);
}

export { Code };

/** A timestamp in `milliseconds` from now. */
export function fromNow(milliseconds: number) {
  return { seconds: BigInt(Math.floor((Date.now() + milliseconds) / 1000)), nanos: 0 };
}

function textOf(stream: PassThrough): string {
  return (stream.read() as Buffer | null)?.toString() ?? "";
}
