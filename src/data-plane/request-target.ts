import type { RequestTarget } from "../domain/decide.ts";
import { ascii, latin1 } from "./bytes.ts";

/** As the generated decoder reads text; what is no UTF-8 is replaced, because nothing is decided by it. */
const utf8 = new TextDecoder();

/** The characters bytes[from, to), at most `most` bytes of them. */
export function textAt(bytes: Buffer, from: number, to: number, most = Infinity): string {
  const end = Math.min(to, from + most);
  return ascii(bytes, from, end) ?? utf8.decode(bytes.subarray(from, end));
}

/** A target with its texts, which may be kept after the bytes are gone. */
export function keptTarget(of: RequestTarget): RequestTarget {
  const { method, host, path, workload } = of;
  return { method, host, path, workload };
}

/** The longest context that is kept as one copy. Bytes. */
const MOST_COPIED = 2_048;

const ADDRESS = 0x0a;
const METHOD = 0x12;
const HOST = 0x1a;
const PATH = 0x22;
const WORKLOAD = 0x2a;

/**
 * The RequestContext in bytes[from, to): the places of its fields. A text is made only where somebody reads it, since most
 * profiles record nothing.
 */
export class ContextBytes implements RequestTarget {
  readonly #bytes: Buffer;
  readonly #from: number;
  readonly #to: number;

  constructor(bytes: Buffer, from: number, to: number) {
    this.#bytes = bytes;
    this.#from = from;
    this.#to = to;
  }

  /** False for bytes that only the full decoder may read: not ASCII, malformed, or with fields of other kinds. */
  get plain(): boolean {
    const bytes = this.#bytes;
    for (let at = this.#from; at < this.#to; ) {
      const tag = bytes[at++]!;
      if ((tag & 7) !== 2 || tag < ADDRESS || tag > WORKLOAD) return false;
      const begin = startOf(bytes, at);
      const stop = begin + lengthAt(bytes, at);
      if (!(stop <= this.#to)) return false;
      for (at = begin; at < stop; at++) if (bytes[at]! > 127) return false;
    }
    return true;
  }

  copy(): RequestTarget | undefined {
    if (this.#to - this.#from > MOST_COPIED) return undefined;
    return new KeptContext(latin1(this.#bytes, this.#from, this.#to));
  }

  get clientAddress(): string {
    return this.#field(ADDRESS);
  }

  get method(): string {
    return this.#field(METHOD);
  }

  get host(): string {
    return this.#field(HOST);
  }

  get path(): string {
    return this.#field(PATH);
  }

  get workload(): string {
    return this.#field(WORKLOAD);
  }

  /** Of a field that occurs more than once, the last counts. */
  #field(wanted: number): string {
    let text = "";
    for (let at = this.#from; at < this.#to; ) {
      const tag = this.#bytes[at++]!;
      const begin = startOf(this.#bytes, at);
      const stop = begin + lengthAt(this.#bytes, at);
      if (tag === wanted) text = textAt(this.#bytes, begin, stop);
      at = stop;
    }
    return text;
  }
}

/** The bytes of a RequestContext as one string, which costs less to make than a text for each field. */
class KeptContext implements RequestTarget {
  readonly #latin1: string;
  #context: ContextBytes | undefined;

  constructor(latin1: string) {
    this.#latin1 = latin1;
  }

  get #read(): ContextBytes {
    return (this.#context ??= new ContextBytes(Buffer.from(this.#latin1, "latin1"), 0, this.#latin1.length));
  }

  get method(): string {
    return this.#read.method;
  }

  get host(): string {
    return this.#read.host;
  }

  get path(): string {
    return this.#read.path;
  }

  get workload(): string {
    return this.#read.workload;
  }
}

/** A length of one or two bytes; more is NaN, as is one that ends after the bytes. */
function lengthAt(bytes: Buffer, at: number): number {
  const low = bytes[at]!;
  if (low < 128) return low;
  const high = bytes[at + 1]!;
  return high < 128 ? (low & 127) | (high << 7) : Number.NaN;
}

function startOf(bytes: Buffer, at: number): number {
  return bytes[at]! < 128 ? at + 1 : at + 2;
}
