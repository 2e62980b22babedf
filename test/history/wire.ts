import { once } from "node:events";
import { type ClientHttp2Session, connect } from "node:http2";

/** A verdict by its number in the API. */
export const ALLOW = 1;
export const INVALID_TOKEN = 2;
export const INSUFFICIENT_SCOPE = 3;
export const UNDETERMINED = 7;

const SERVICE = "/sallyport.v1.TokenValidator";

/** One question as it stands inside a batch: the bytes of a ValidateTokenRequest, without tag and length. */
export function question(tokenString: string, requiredScope?: string): Buffer {
  const scope = requiredScope === undefined ? [] : [field(2, Buffer.from(requiredScope))];
  return Buffer.concat([field(1, Buffer.from(tokenString)), ...scope]);
}

/**
 * A light client of one data door: gRPC on one HTTP/2 connection, opened again after a loss. It encodes little and
 * decodes no more than verdicts, so that what it costs does not slow down what it measures.
 */
export class DataClient {
  readonly #url: string;
  #session: ClientHttp2Session | undefined;

  constructor(url: string) {
    this.#url = url;
  }

  /** The verdict about one token. Rejects where no answer came within `timeoutMs`. */
  async validate(asked: Buffer, timeoutMs: number): Promise<number> {
    return verdictOf(await this.#call(`${SERVICE}/ValidateToken`, asked, timeoutMs));
  }

  /** The verdicts about at most 100 tokens, in the order of the questions. */
  async batch(asked: readonly Buffer[], timeoutMs: number): Promise<number[]> {
    const body = Buffer.concat(asked.map((one) => field(1, one)));
    const reply = await this.#call(`${SERVICE}/BatchValidateTokens`, body, timeoutMs);
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

  async #call(path: string, message: Buffer, timeoutMs: number): Promise<Buffer> {
    const stream = this.#open().request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
    });
    const head = Buffer.alloc(5);
    head.writeUInt32BE(message.length, 1);
    const chunks: Buffer[] = [];
    let status: unknown;
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("response", (headers) => (status ??= headers["grpc-status"]));
    stream.on("trailers", (headers) => (status ??= headers["grpc-status"]));
    const timer = setTimeout(() => stream.destroy(new Error("no answer in time")), timeoutMs);
    try {
      stream.end(Buffer.concat([head, message]));
      await once(stream, "close");
    } finally {
      clearTimeout(timer);
    }
    if (status !== "0") throw new Error(`gRPC status ${String(status)}`);
    return Buffer.concat(chunks).subarray(5);
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
