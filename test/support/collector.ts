import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

interface Value {
  readonly stringValue?: string;
  readonly intValue?: number | string;
  readonly doubleValue?: number;
}

export interface ReceivedSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly kind: number;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly { readonly key: string; readonly value: Value }[];
  readonly events: readonly unknown[];
  readonly status: { readonly code: number; readonly message?: string };
}

/** A receiver of OTLP over HTTP, JSON, for one test. Frozen, it takes requests and answers none. */
export class Collector {
  readonly url: string;
  readonly spans: ReceivedSpan[] = [];
  readonly resources: unknown[] = [];
  /** Everything that it was sent, headers too. */
  bytes = Buffer.alloc(0);
  frozen = false;
  requests = 0;
  readonly #close: () => void;
  #arrived: () => void = () => {};

  private constructor(url: string, close: () => void) {
    this.url = url;
    this.#close = close;
  }

  static async open(): Promise<Collector> {
    const server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk) => chunks.push(chunk));
      request.on("end", () => {
        collector.requests++;
        collector.#arrived();
        if (collector.frozen) return;
        collector.#take(request.rawHeaders.join("\n"), Buffer.concat(chunks));
        response.writeHead(200, { "content-type": "application/json" }).end("{}");
      });
    });
    await once(server.listen(0, "127.0.0.1"), "listening");
    const { port } = server.address() as AddressInfo;
    const collector = new Collector(`http://127.0.0.1:${port}`, () => {
      server.close();
      server.closeAllConnections();
    });
    return collector;
  }

  #take(headers: string, body: Buffer): void {
    this.bytes = Buffer.concat([this.bytes, Buffer.from(headers), body]);
    const { resourceSpans } = JSON.parse(body.toString()) as {
      resourceSpans: { resource: unknown; scopeSpans: { spans: ReceivedSpan[] }[] }[];
    };
    for (const { resource, scopeSpans } of resourceSpans) {
      this.resources.push(resource);
      for (const { spans } of scopeSpans) this.spans.push(...spans);
    }
    this.#arrived();
  }

  /** Resolves once `found` has a result, looked at after each arrival. */
  until<T>(found: () => T | undefined | false): Promise<T> {
    return new Promise((resolve) => {
      const look = () => {
        const value = found();
        if (value === undefined || value === false) return;
        this.#arrived = () => {};
        resolve(value);
      };
      this.#arrived = look;
      look();
    });
  }

  close(): void {
    this.#close();
  }
}
