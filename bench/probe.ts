import { request as httpRequest } from "node:http";
import http2 from "node:http2";
import { connect as netConnect } from "node:net";
import type { Request } from "./request.ts";

interface Seen {
  readonly status: number;
  readonly grpcStatus: string | undefined;
  readonly body: Buffer;
}

const TRIES = 5;

/**
 * Sends one request, and repeats it while the server says that it cannot answer now. Returns the reason why its row
 * cannot be measured (the method does not exist), or undefined if the answer is right. Rejects on a wrong answer.
 */
export async function probe(address: string, request: Request, tries = TRIES): Promise<string | undefined> {
  const { status, grpcStatus, body } = await (request.http1
    ? overHttp1(address, request)
    : overHttp2(address, request));
  if (grpcStatus === "12") return "not built: UNIMPLEMENTED";
  if (status === 404 || status === 501) return `not built: ${status}`;
  if (status === 200 && (grpcStatus ?? "0") === "0" && body.includes(request.expect)) return undefined;
  if ((status === 503 || status === 429) && tries > 1) {
    await new Promise((done) => setTimeout(done, 200));
    return probe(address, request, tries - 1);
  }
  throw new Error(`${request.path}: ${status}, grpc-status ${grpcStatus}: ${body.toString("latin1").slice(0, 200)}`);
}

function overHttp1(address: string, { method, path, headers, body }: Request): Promise<Seen> {
  const [host, port] = address.split(":");
  return new Promise((resolve, reject) => {
    const call = httpRequest({ host, port, method, path, headers, timeout: 5_000, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, grpcStatus: undefined, body: Buffer.concat(chunks) }),
      );
    });
    call.on("timeout", () => call.destroy(new Error("no answer")));
    call.on("error", reject);
    call.end(body);
  });
}

function overHttp2(address: string, request: Request): Promise<Seen> {
  const unix = address.startsWith("unix:") ? address.slice(5) : undefined;
  const session = http2.connect(
    `http://${unix === undefined ? address : "localhost"}`,
    unix === undefined ? {} : { createConnection: () => netConnect(unix) },
  );
  return new Promise<Seen>((resolve, reject) => {
    session.on("error", reject);
    const stream = session.request({ ":method": request.method, ":path": request.path, ...request.headers });
    const chunks: Buffer[] = [];
    let status = 0;
    let grpcStatus: string | undefined;
    stream.setTimeout(5_000, () => stream.destroy(new Error("no answer")));
    stream.on("response", (headers) => {
      status = Number(headers[":status"]);
      grpcStatus = headers["grpc-status"] as string | undefined;
    });
    stream.on("trailers", (trailers) => (grpcStatus = trailers["grpc-status"] as string));
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", reject);
    stream.on("close", () => resolve({ status, grpcStatus, body: Buffer.concat(chunks) }));
    stream.end(request.body);
  }).finally(() => session.close());
}
