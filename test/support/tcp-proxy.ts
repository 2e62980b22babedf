import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

/**
 * The state of the network, for existing and new connections. `pass`. `latency`: each chunk is later by `ms` in each
 * direction. `blackhole`: accepted and never forwarded. `reset`: RST at once. `refuse`: like a closed port. `cut`: RST
 * after `up` bytes from the client or `down` from the server, counted per connection from its beginning.
 */
export type Weather =
  | { kind: "pass" | "blackhole" | "reset" | "refuse" }
  | { kind: "latency"; ms: number }
  | { kind: "cut"; up?: number; down?: number };

export type TcpProxy = Readonly<{
  port: number;
  /**
   * Takes effect at once; resolves when the port is closed or open again. Bytes that a blackhole swallowed stay lost.
   */
  set(weather: Weather): Promise<void>;
  /** Sends new connections to another target. */
  leadTo(target: { port: number; host?: string }): void;
  /** The clients that are connected now. */
  connections(): readonly Socket[];
  stop(): Promise<void>;
}>;

/** A TCP proxy on 127.0.0.1 in front of `target`. A test changes its state. */
export async function startTcpProxy(first: { port: number; host?: string }): Promise<TcpProxy> {
  let target = first;
  let weather: Weather = { kind: "pass" };
  const pairs = new Map<Socket, Socket>();
  const reset = (pair: Iterable<Socket>) => {
    for (const socket of pair) socket.resetAndDestroy();
  };

  const carry = (from: Socket, to: Socket, way: "up" | "down") => {
    let carried = 0;
    // A chain of promises keeps the order when the latency changes between two chunks.
    let line: Promise<unknown> = Promise.resolve();
    const inLine = (act: () => void) => {
      const ms = weather.kind === "latency" ? weather.ms : 0;
      const due = ms > 0 ? new Promise((resolve) => setTimeout(resolve, ms)) : undefined;
      line = Promise.all([line, due]).then(act);
    };
    from.on("data", (chunk: Buffer) => {
      if (weather.kind === "blackhole") return;
      const limit = weather.kind === "cut" ? weather[way] : undefined;
      const left = limit === undefined ? Number.POSITIVE_INFINITY : Math.max(0, limit - carried);
      carried += chunk.length;
      inLine(() => {
        if (to.destroyed) return;
        if (left > chunk.length) return void (to.write(chunk) || pauseUntilDrained(from, to));
        to.write(chunk.subarray(0, left), () => reset([from, to]));
      });
    });
    from.on("end", () => weather.kind !== "blackhole" && inLine(() => to.end()));
    from.on("close", () => weather.kind !== "blackhole" && inLine(() => to.destroy()));
    from.on("error", () => to.destroy());
  };

  const server: Server = createServer({ allowHalfOpen: true }, (client) => {
    if (weather.kind === "reset") return client.resetAndDestroy();
    const upstream = connect({ host: "127.0.0.1", allowHalfOpen: true, ...target });
    pairs.set(client, upstream);
    client.on("close", () => pairs.delete(client));
    carry(client, upstream, "up");
    carry(upstream, client, "down");
  });
  const listen = (port: number) => once(server.listen(port, "127.0.0.1"), "listening");
  await listen(0);
  const { port } = server.address() as { port: number };
  const dropAll = () => [...pairs].map(reset);

  return {
    port,
    connections: () => [...pairs.keys()],
    leadTo: (next) => {
      target = next;
    },
    set: async (next) => {
      weather = next;
      if (next.kind === "reset" || next.kind === "refuse") dropAll();
      if (next.kind === "refuse" && server.listening) await new Promise((resolve) => server.close(resolve));
      if (next.kind !== "refuse" && !server.listening) await listen(port);
    },
    stop: async () => {
      dropAll();
      if (server.listening) await new Promise((resolve) => server.close(resolve));
    },
  };
}

function pauseUntilDrained(from: Socket, to: Socket): void {
  from.pause();
  to.once("drain", () => from.resume());
}
