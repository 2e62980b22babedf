import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

/** The behaviour of a link towards the connections that a rule matches. */
export interface PgWeather {
  /** Nothing passes either way. Bytes that were sent meanwhile arrive at the end, however late, as with TCP. */
  readonly hole?: boolean;
  /** Only the direction from the server to the client is blocked. */
  readonly holeDown?: boolean;
  /** Each chunk is later by this time, in milliseconds. */
  readonly upMs?: number;
  readonly downMs?: number;
  /** NotificationResponse messages are omitted. */
  readonly deaf?: boolean;
  /** New connections are reset. */
  readonly refuse?: boolean;
  /** New connections lead to this port. */
  readonly port?: number;
  /** Reset after this many bytes from the client, or from the server, counted from the start of the rule. */
  readonly cut?: { readonly up?: number; readonly down?: number };
}

interface Passage {
  readonly app: string;
  readonly client: Socket;
  readonly server: Socket;
  up: number;
  down: number;
  /** Silent forever: neither side hears of the other again. */
  frozen: boolean;
  readonly frames: Frames;
}

const CALM: PgWeather = {};

/**
 * A proxy between one program and PostgreSQL that identifies each connection by its application_name, so that faults
 * can affect only the poll, the reads or the mutations.
 */
export class PgLink {
  readonly port: number;
  target: number;
  readonly #server: Server;
  readonly #passages = new Set<Passage>();
  /** Connections that have not identified themselves yet. */
  readonly #strangers = new Set<Socket>();
  #rules: { readonly app: RegExp; readonly weather: PgWeather }[] = [];
  /** Counts for probes: connections made, bytes held back, notifications omitted, connections cut. */
  readonly seen = { connections: 0, notifications: 0, cuts: 0 };

  private constructor(server: Server, port: number, target: number) {
    this.#server = server;
    this.port = port;
    this.target = target;
    server.on("connection", (client) => this.#greet(client));
  }

  static async start(target: number): Promise<PgLink> {
    const server = createServer({ allowHalfOpen: true, noDelay: true }).listen(0, "127.0.0.1");
    await once(server, "listening");
    return new PgLink(server, (server.address() as { port: number }).port, target);
  }

  /** Applies a behaviour to the connections whose application_name matches. The latest rule counts. */
  set(weather: PgWeather, app = /./): void {
    this.#rules.unshift({ app, weather });
    for (const passage of this.#passages) {
      if (weather.cut !== undefined && app.test(passage.app)) Object.assign(passage, { up: 0, down: 0 });
      this.#flow(passage);
    }
  }

  clear(): void {
    this.#rules = [];
    for (const passage of this.#passages) this.#flow(passage);
  }

  /** Connections that are open now. */
  count(app = /./): number {
    return [...this.#passages].filter((passage) => app.test(passage.app)).length;
  }

  /** The peer vanishes without a word: existing connections carry nothing any more, new ones do. */
  freeze(app = /./): number {
    const found = [...this.#passages].filter((passage) => app.test(passage.app) && !passage.frozen);
    for (const passage of found) {
      passage.frozen = true;
      this.#flow(passage);
    }
    return found.length;
  }

  /** The most bytes that one connection carried since the last `cut` began. */
  carried(app = /./): { readonly up: number; readonly down: number } {
    const found = [...this.#passages].filter((passage) => app.test(passage.app));
    return { up: Math.max(...found.map(({ up }) => up)), down: Math.max(...found.map(({ down }) => down)) };
  }

  reset(app = /./): number {
    const found = [...this.#passages].filter((passage) => app.test(passage.app));
    for (const passage of found) end(passage);
    return found.length;
  }

  async stop(): Promise<void> {
    this.reset();
    for (const stranger of this.#strangers) stranger.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #weather(app: string): PgWeather {
    return this.#rules.find((rule) => rule.app.test(app))?.weather ?? CALM;
  }

  /** Reads the startup packet, which names the client. */
  #greet(client: Socket): void {
    client.on("error", () => {});
    this.#strangers.add(client);
    client.on("close", () => this.#strangers.delete(client));
    let head = Buffer.alloc(0);
    const read = (chunk: Buffer) => {
      head = Buffer.concat([head, chunk]);
      if (head.length < 4 || head.length < head.readInt32BE(0)) return;
      client.off("data", read);
      this.#strangers.delete(client);
      const words = head.subarray(8, head.readInt32BE(0)).toString("latin1").split("\0");
      const app = words[words.indexOf("application_name") + 1] ?? "";
      const weather = this.#weather(app);
      if (weather.refuse) return void client.resetAndDestroy();
      this.seen.connections++;
      const port = weather.port ?? this.target;
      const server = connect({ host: "127.0.0.1", port, allowHalfOpen: true, noDelay: true });
      const passage: Passage = { app, client, server, up: 0, down: 0, frozen: false, frames: new Frames() };
      this.#passages.add(passage);
      client.on("close", () => this.#passages.delete(passage));
      this.#carry(passage, "up", client, server);
      this.#carry(passage, "down", server, client);
      client.emit("data", head);
      this.#flow(passage);
    };
    client.on("data", read);
  }

  #carry(passage: Passage, way: "up" | "down", from: Socket, to: Socket): void {
    let line: Promise<unknown> = Promise.resolve();
    let queued = 0;
    const inLine = (act: () => void) => {
      const ms = this.#weather(passage.app)[way === "up" ? "upMs" : "downMs"] ?? 0;
      if (ms === 0 && queued === 0) return act();
      queued++;
      const due = ms > 0 ? new Promise((resolve) => setTimeout(resolve, ms)) : undefined;
      line = Promise.all([line, due]).then(() => {
        queued--;
        act();
      });
    };
    from.on("data", (chunk: Buffer) => {
      const bytes = way === "down" && passage.app === "sallyport-poll" ? this.#heard(passage, chunk) : chunk;
      const limit = this.#weather(passage.app).cut?.[way];
      const left = limit === undefined ? Number.POSITIVE_INFINITY : Math.max(0, limit - passage[way]);
      passage[way] += bytes.length;
      inLine(() => {
        if (to.destroyed) return;
        if (bytes.length < left) return void (to.write(bytes) || waitFor(from, to, () => this.#flow(passage)));
        this.seen.cuts++;
        to.write(bytes.subarray(0, left), () => end(passage));
      });
    });
    from.on("end", () => inLine(() => to.end()));
    from.on("close", () => inLine(() => to.destroy()));
    from.on("error", () => to.destroy());
  }

  /** The rest of a chunk without its notifications. Whole messages only. */
  #heard(passage: Passage, chunk: Buffer): Buffer {
    const messages = passage.frames.take(chunk);
    if (!this.#weather(passage.app).deaf) return Buffer.concat(messages);
    const kept = messages.filter((message) => message[0] !== 0x41);
    this.seen.notifications += messages.length - kept.length;
    return Buffer.concat(kept);
  }

  #flow({ app, client, server, frozen }: Passage): void {
    const { hole = false, holeDown = false } = this.#weather(app);
    if (hole || frozen) client.pause();
    else client.resume();
    if (hole || holeDown || frozen) server.pause();
    else server.resume();
  }
}

/** Messages of the server, each with a type byte and a length. */
class Frames {
  #rest: Buffer = Buffer.alloc(0);

  take(chunk: Buffer): Buffer[] {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    const whole: Buffer[] = [];
    while (this.#rest.length >= 5 && this.#rest.length > this.#rest.readInt32BE(1)) {
      const size = 1 + this.#rest.readInt32BE(1);
      whole.push(this.#rest.subarray(0, size));
      this.#rest = this.#rest.subarray(size);
    }
    return whole;
  }
}

function end({ client, server }: Passage): void {
  client.resetAndDestroy();
  server.resetAndDestroy();
}

function waitFor(from: Socket, to: Socket, then: () => void): void {
  from.pause();
  to.once("drain", then);
}
