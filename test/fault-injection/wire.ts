import { once } from "node:events";
import { Agent, type IncomingMessage, request } from "node:http";
import { type ClientHttp2Session, connect, type OutgoingHttpHeaders } from "node:http2";

/** A verdict by its number in the API. */
export const ALLOW = 1;
export const INVALID_TOKEN = 2;
export const INSUFFICIENT_SCOPE = 3;
export const WRONG_TENANT = 8;
export const UNDETERMINED = 7;

export interface HttpReply {
  readonly status: number;
  readonly headers: Record<string, string | readonly string[] | undefined>;
  readonly body: Buffer;
}

const SERVICE = "/sallyport.v1.TokenValidator";

/** One request inside a batch: the bytes of a ValidateTokenRequest, without tag and length. */
export function question(tokenString: string, requiredScope?: string, requiredTenant?: string): Buffer {
  const scope = requiredScope === undefined ? [] : [field(2, Buffer.from(requiredScope))];
  const tenant = requiredTenant === undefined ? [] : [field(5, Buffer.from(requiredTenant))];
  return Buffer.concat([field(1, Buffer.from(tokenString)), ...scope, ...tenant]);
}

/**
 * A light client of one data listener: gRPC on one HTTP/2 connection, reopened after a loss. It encodes little and
 * decodes only verdicts, so that its own cost does not slow down the measured system.
 */
export class DataClient {
  readonly #url: string;
  #session: ClientHttp2Session | undefined;

  constructor(url: string) {
    this.#url = url;
  }

  /** One gRPC call; returns the message of the answer. Rejects if the status is not OK or no answer came in time. */
  async unary(path: string, message: Buffer, timeoutMs: number): Promise<Buffer> {
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    const headers = { ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" };
    const { body, headers: answer } = await this.exchange(headers, Buffer.concat([head, message]), timeoutMs);
    const status = answer["grpc-status"];
    if (status !== "0") throw new Error(`gRPC status ${String(status)}`);
    return body.subarray(5);
  }

  /** The verdict about one token. Rejects if no answer came within `timeoutMs`. */
  async validate(asked: Buffer, timeoutMs: number): Promise<number> {
    return verdictOf(await this.unary(`${SERVICE}/ValidateToken`, asked, timeoutMs));
  }

  /** The verdicts about at most 100 tokens, in their order. */
  async batch(asked: readonly Buffer[], timeoutMs: number): Promise<number[]> {
    const body = Buffer.concat(asked.map((one) => field(1, one)));
    const reply = await this.unary(`${SERVICE}/BatchValidateTokens`, body, timeoutMs);
    const verdicts: number[] = [];
    for (let at = 0; at < reply.length; ) {
      const { value: length, next } = varint(reply, at + 1);
      verdicts.push(verdictOf(reply.subarray(next, next + length)));
      at = next + length;
    }
    if (verdicts.length !== asked.length) throw new Error(`${verdicts.length} answers to ${asked.length} questions`);
    return verdicts;
  }

  close(): void {
    this.#session?.destroy();
    this.#session = undefined;
  }

  #open(): ClientHttp2Session {
    if (this.#session !== undefined && !this.#session.closed && !this.#session.destroyed) return this.#session;
    const session = connect(this.#url);
    session.on("error", () => {});
    session.on("goaway", () => this.#session === session && (this.#session = undefined));
    session.setMaxListeners(0);
    return (this.#session = session);
  }

  /** One HTTP/2 request, and its answer with its trailers among the headers. */
  async exchange(headers: OutgoingHttpHeaders, body: Buffer, timeoutMs: number): Promise<HttpReply> {
    const stream = this.#open().request(headers, { endStream: body.length === 0 });
    const chunks: Buffer[] = [];
    const answered: HttpReply["headers"] = {};
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("response", (fields) => Object.assign(answered, fields));
    stream.on("trailers", (fields) => Object.assign(answered, fields));
    const timer = setTimeout(() => stream.destroy(new Error("no answer in time")), timeoutMs);
    try {
      if (body.length > 0) stream.end(body);
      await once(stream, "close");
    } finally {
      clearTimeout(timer);
    }
    return { status: Number(answered[":status"]), headers: answered, body: Buffer.concat(chunks) };
  }
}

/** A client of one listener over HTTP/1.1, like most proxies. */
export class HttpClient {
  readonly #url: string;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 16 });

  constructor(url: string) {
    this.#url = url;
  }

  async ask(
    method: string,
    path: string,
    headers: Record<string, string>,
    body: string,
    timeoutMs: number,
  ): Promise<HttpReply> {
    const call = request(`${this.#url}${path}`, {
      method,
      headers: { ...headers, "content-length": Buffer.byteLength(body) },
      agent: this.#agent,
      signal: AbortSignal.timeout(timeoutMs),
    });
    call.end(body);
    const [answer] = (await once(call, "response")) as [IncomingMessage];
    const chunks: Buffer[] = [];
    for await (const chunk of answer) chunks.push(chunk as Buffer);
    return { status: answer.statusCode!, headers: answer.headers, body: Buffer.concat(chunks) };
  }

  close(): void {
    this.#agent.destroy();
  }
}

function verdictOf(response: Buffer): number {
  return response[0] === 0x08 ? response[1]! : 0;
}

function field(number: number, bytes: Buffer): Buffer {
  const head = [(number << 3) | 2];
  let length = bytes.length;
  for (; length > 127; length >>>= 7) head.push((length & 127) | 128);
  return Buffer.concat([Buffer.from([...head, length]), bytes]);
}

function varint(bytes: Buffer, start: number): { value: number; next: number } {
  let value = 0;
  let at = start;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++]!;
    value |= (byte & 127) << shift;
    if (byte < 128) return { value, next: at };
  }
}
