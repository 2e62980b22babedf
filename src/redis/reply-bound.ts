import { type Cluster, type Redis, type RedisOptions, SentinelConnector } from "ioredis";

/** More than any expected reply: an entry is below 128 KiB. */
const MOST_BYTES = 1 << 20;
/** Announces an array. The driver allocates all of its elements at once, and arrays may be inside each other. */
const ARRAY = /[*~>%](\d{1,19})\r/g;
/** No reply within the bound has more elements in all of its arrays: each takes four bytes at least. */
const MOST_ELEMENTS = MOST_BYTES / 4;
const LONGEST_HEADER = 21;
/** Redis Cluster is made for up to 1,000 nodes. The driver keeps a client for each that is announced. */
const MOST_NODES = 1000;
const SLOTS = 16_384;

/** The internals of ioredis that are needed here: its socket, and the commands that wait for a reply. */
interface Inside {
  readonly stream: {
    emit(event: string, ...args: unknown[]): boolean;
    once(event: "close", listener: () => void): unknown;
    destroy(): unknown;
  };
  readonly commandQueue: { peekFront(): unknown };
}

/**
 * Destroys a connection whose server sends an oversized reply, before the driver has collected it, so that no reply of
 * Redis can exhaust our memory. Then calls `onBound`.
 */
export function boundReplies(client: Redis, onBound: () => void): void {
  client.on("connect", () => {
    const inside = client as unknown as Inside;
    const { stream } = inside;
    let waits: unknown;
    let bytes = 0;
    let elements = 0;
    let tail = "";
    // A message is complete, so the count starts again.
    const whole = () => {
      bytes = 0;
      elements = 0;
    };
    client.on("message", whole);
    stream.once("close", () => client.off("message", whole));
    const refuses = (chunk: Buffer): boolean => {
      const first = inside.commandQueue.peekFront();
      if (first !== waits) whole();
      waits = first;
      bytes += chunk.length;
      const text = tail + chunk.toString("latin1");
      let end = 0;
      for (const found of text.matchAll(ARRAY)) {
        elements += Number(found[1]);
        end = found.index + found[0].length;
      }
      // A header that is not complete yet is seen again with the next bytes, a complete one is not.
      tail = text.slice(Math.max(end, text.length - LONGEST_HEADER));
      return bytes > MOST_BYTES || elements > MOST_ELEMENTS;
    };
    let refused = false;
    const emit = stream.emit;
    // In front of all listeners: one that is removed while data is emitted would still get it.
    stream.emit = (event, ...args) => {
      if (event !== "data") return emit.call(stream, event, ...args);
      if (refused) return true;
      refused = refuses(args[0] as Buffer);
      if (!refused) return emit.call(stream, event, ...args);
      stream.destroy();
      onBound();
      return true;
    };
  });
}

/** Makes the connections to sentinels, which are asked for the primary and report failovers. */
export function boundSentinels(onBound: () => void): NonNullable<RedisOptions["Connector"]> {
  return class extends SentinelConnector {
    constructor(options: unknown) {
      super(options as ConstructorParameters<typeof SentinelConnector>[0]);
      const inside = this as unknown as { connectToSentinel: (...of: unknown[]) => Redis };
      after(inside, "connectToSentinel", (sentinel) => {
        boundReplies(sentinel, onBound);
        // The driver prints an error that nobody hears, with addresses, to stderr. If the primary is not found, the
        // connection to Redis reports it.
        sentinel.on("error", () => {});
      });
    }
  };
}

/** All connections of a cluster: those for commands, those that ask for the slots, and the one that listens. */
export function boundCluster(cluster: Cluster, onBound: () => void): void {
  cluster.on("+node", (node: Redis) => {
    boundReplies(node, onBound);
    const inside = node as unknown as { duplicate: (...of: unknown[]) => Redis };
    after(inside, "duplicate", (asking) => {
      boundReplies(asking, onBound);
      boundSlots(asking, onBound);
    });
  });
  type Subscriber = { selectSubscriber: () => void; getInstance(): Redis | null };
  const { subscriber } = cluster as unknown as { subscriber: Subscriber };
  after(subscriber, "selectSubscriber", () => {
    const listening = subscriber.getInstance();
    if (listening !== null) boundReplies(listening, onBound);
  });
}

type AskForSlots = (part: "SLOTS", done: (error?: Error | null, ranges?: unknown) => void) => unknown;

/** Refuses a map of the slots that no cluster has: the driver walks over each slot of each range, and makes each node. */
function boundSlots(asking: Redis, onBound: () => void): void {
  const inside = asking as unknown as { cluster: AskForSlots };
  const ask = inside.cluster;
  inside.cluster = (part, done) =>
    ask.call(asking, part, (error, ranges) => {
      if (error || isSlotMap(ranges)) return done(error, ranges);
      onBound();
      done(new RangeError("not a map of the slots of a cluster"));
    });
}

/** True for ranges of slots that hold no slot twice, with at most MOST_NODES different nodes. */
function isSlotMap(ranges: unknown): boolean {
  if (!Array.isArray(ranges)) return false;
  const nodes = new Set<string>();
  let slots = 0;
  for (const range of ranges) {
    if (!Array.isArray(range)) return false;
    const [first, last, ...places] = range;
    if (!Number.isInteger(first) || !Number.isInteger(last) || first < 0 || last >= SLOTS || first > last) return false;
    slots += last - first + 1;
    for (const place of places) {
      if (!Array.isArray(place)) return false;
      nodes.add(`${place[0]}:${place[1]}`);
    }
  }
  return slots <= SLOTS && nodes.size <= MOST_NODES;
}

/** Has `then` see what a method of the driver returned, before anything was received on it. */
function after<K extends string, A extends unknown[], R>(
  of: { [key in K]: (...args: A) => R },
  method: K,
  then: (result: R) => void,
): void {
  const original = of[method];
  // It is no part of what the driver promises: without it, nothing would be bounded.
  if (typeof original !== "function") throw new TypeError(`the Redis driver has no ${method}`);
  of[method] = (...args: A) => {
    const result = original.apply(of, args);
    then(result);
    return result;
  };
}
