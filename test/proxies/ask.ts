import { type Agent, request as httpRequest, type IncomingMessage } from "node:http";

export type Header = readonly [name: string, value: string];

export interface Ask {
  readonly method?: string;
  readonly path?: string;
  /** As pairs, in order, repeated ones too; Latin-1. */
  readonly headers?: readonly Header[];
  readonly body?: Buffer;
  readonly chunked?: boolean;
  readonly agent?: Agent;
}

/** What the upstream saw of a request; it says so in its answer. */
export interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: readonly Header[];
  readonly bytes: number;
  readonly sha256: string;
}

export interface Reply {
  readonly status: number;
  readonly headers: ReadonlyMap<string, readonly string[]>;
  readonly text: string;
  readonly ms: number;
  /** Undefined where the request never reached the upstream. */
  readonly seen: Seen | undefined;
}

/** Marks an answer as the upstream's own. */
export const UPSTREAM = "x-upstream";

/** One request over HTTP/1.1, with nothing added but Host and the framing; on a connection of its own without `agent`. */
export function ask(port: number, { method = "GET", path = "/", headers = [], body, chunked, agent }: Ask = {}) {
  const framing: Header[] =
    body === undefined ? [] : [chunked ? ["transfer-encoding", "chunked"] : ["content-length", String(body.length)]];
  const connection: Header[] = agent === undefined ? [["connection", "close"]] : [];
  const pairs = [["host", "edge.example"] as const, ...connection, ...framing, ...headers];
  const start = performance.now();
  return new Promise<Reply>((resolve, reject) => {
    const request = httpRequest(
      { host: "127.0.0.1", port, method, path, agent: agent ?? false, headers: pairs.flat(), timeout: 10_000 },
      (response) => void read(response).then((reply) => resolve({ ...reply, ms: performance.now() - start }), reject),
    );
    request.on("error", reject);
    request.on("timeout", () => request.destroy(new Error("no answer in 10 s")));
    if (chunked && body !== undefined) {
      const middle = body.length >> 1;
      request.write(body.subarray(0, middle));
      request.end(body.subarray(middle));
    } else request.end(body);
  });
}

async function read(response: IncomingMessage): Promise<Omit<Reply, "ms">> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString("latin1");
  const headers = grouped(response.rawHeaders);
  const seen = headers.has(UPSTREAM) && text !== "" ? (JSON.parse(text) as Seen) : undefined;
  return { status: response.statusCode ?? 0, headers, text, seen };
}

function grouped(raw: readonly string[]): ReadonlyMap<string, readonly string[]> {
  const all = new Map<string, string[]>();
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!.toLowerCase();
    all.set(name, [...(all.get(name) ?? []), raw[i + 1]!]);
  }
  return all;
}

export const bearer = (tokenString: string): Header => ["Authorization", `Bearer ${tokenString}`];

/** The values of a header that the upstream saw, whatever its spelling. */
export function arrived(reply: Reply, name: string): string[] {
  const plain = (of: string) => of.toLowerCase().replaceAll("_", "-");
  return (reply.seen?.headers ?? []).filter(([key]) => plain(key) === plain(name)).map(([, value]) => value);
}
