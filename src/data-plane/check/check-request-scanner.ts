import type { RequestTarget } from "../../domain/decide.ts";
import { ascii, latin1 } from "../bytes.ts";
import { textAt } from "../request-target.ts";

/** The headers that an answer can depend on. Their names differ in length. */
export const WANTED = [
  "authorization",
  "x-api-key",
  "content-type",
  "x-envoy-external-address",
  "x-forwarded-for",
  "origin",
  "access-control-request-method",
] as const;

const AUTHORIZATION = WANTED.indexOf("authorization");
const API_KEY = WANTED.indexOf("x-api-key");
const CONTENT_TYPE = WANTED.indexOf("content-type");
const BY_LENGTH: (number | undefined)[] = [];
const NAMES = WANTED.map((name, i) => {
  BY_LENGTH[name.length] = i;
  return Buffer.from(name);
});
/** The scheme in lower case. A space stays the same in lower case. */
const BEARER = Buffer.from("bearer ");
const GRPC = Buffer.from("application/grpc");

/** More of a target than is recorded. Bytes. */
const MOST_TEXT = 8_192;

/** Thrown for bytes in a form that Envoy does not send. The generated decoder then reads them. */
class UnexpectedForm extends Error {}

/** The characters bytes[from, to) of the message. */
export interface Place {
  readonly from: number;
  readonly to: number;
}

/**
 * The fields of a CheckRequest as positions in its bytes: one pass, and it allocates only what the caller asks for. One
 * scanner serves a whole listener, because each message is read and forgotten within a tick. The scanner accepts only
 * the fields and wire types that Envoy sends, so that for well-formed bytes it never disagrees with the generated
 * decoder.
 */
export class CheckRequestScanner {
  bytes: Buffer = Buffer.alloc(0);
  /** True if there is an HTTP request. A network filter sends none. */
  http = false;
  #at = 0;
  #methodFrom = 0;
  #methodTo = 0;
  #peerFrom = 0;
  #peerTo = 0;
  #pathFrom = 0;
  #pathTo = 0;
  #hostFrom = 0;
  #hostTo = 0;
  #workloadFrom = 0;
  #workloadTo = 0;
  /** The entries in their order: the start of each, with its tag and length, and its end. */
  #extensions: number[] = [];
  /** The number of the header and the position of its value: three numbers each. */
  #plain: number[] = [];
  #mapped: number[] = [];
  /** For headers of the header map: true if the value is raw bytes. */
  #raw: boolean[] = [];
  #hasMap = false;
  // The entry that was read last.
  #keyFrom = 0;
  #keyTo = 0;
  #from = 0;
  #to = 0;

  /** False for an unusual form. */
  read(message: Uint8Array): boolean {
    this.bytes = Buffer.isBuffer(message) ? message : Buffer.from(message.buffer, message.byteOffset, message.length);
    this.#at = this.#methodFrom = this.#methodTo = this.#peerFrom = this.#peerTo = 0;
    this.#pathFrom = this.#pathTo = this.#hostFrom = this.#hostTo = this.#workloadFrom = this.#workloadTo = 0;
    this.http = this.#hasMap = false;
    this.#extensions.length = this.#plain.length = this.#mapped.length = this.#raw.length = 0;
    try {
      while (this.#at < this.bytes.length) {
        if (this.#tag() !== 0x0a) throw new UnexpectedForm();
        this.#attributes(this.#stop(this.bytes.length));
      }
      return true;
    } catch (error) {
      if (error instanceof UnexpectedForm) return false;
      throw error;
    }
  }

  /** Undefined if it is not ASCII. */
  get method(): string | undefined {
    return ascii(this.bytes, this.#methodFrom, this.#methodTo);
  }

  get isOptions(): boolean {
    return this.#methodTo - this.#methodFrom === 7 && this.bytes[this.#methodFrom] === 0x4f;
  }

  /** Reads the bytes of the present message. */
  readonly target: RequestTarget = targetOf(this);

  /** The other end of the proxy's connection, as the proxy reports it; undefined if it is not ASCII. */
  get peer(): string | undefined {
    return ascii(this.bytes, this.#peerFrom, this.#peerTo);
  }

  get path(): string {
    return textAt(this.bytes, this.#pathFrom, this.#pathTo, MOST_TEXT);
  }

  get host(): string {
    return textAt(this.bytes, this.#hostFrom, this.#hostTo, MOST_TEXT);
  }

  /** The identity of the other end, by its certificate. */
  get workload(): string {
    return textAt(this.bytes, this.#workloadFrom, this.#workloadTo, MOST_TEXT);
  }

  /** The context extensions as raw bytes, with tags and lengths, so that no two lists of entries look alike. */
  get rawExtensions(): string {
    const places = this.#extensions;
    let raw = "";
    for (let i = 0; i < places.length; i += 2) raw += latin1(this.bytes, places[i]!, places[i + 1]!);
    return raw;
  }

  /** Undefined if they are not ASCII. */
  get extensions(): ReadonlyMap<string, string> | undefined {
    const all = new Map<string, string>();
    for (let i = 0; i < this.#extensions.length; i += 2) {
      const end = this.#extensions[i + 1]!;
      this.#at = this.#extensions[i]! + 1;
      this.#entry(this.#stop(end));
      const key = ascii(this.bytes, this.#keyFrom, this.#keyTo);
      const value = ascii(this.bytes, this.#from, this.#to);
      if (key === undefined || value === undefined) return undefined;
      all.set(key, value);
    }
    return all;
  }

  /** The one credential of a request, if it is an `authorization: Bearer` and no other header could be a credential. */
  bearer(): Place | undefined {
    const found = this.#headers;
    let at = -1;
    for (let i = 0; i < found.length; i += 3) {
      if (found[i] === API_KEY || (found[i] === AUTHORIZATION && at >= 0)) return undefined;
      if (found[i] === AUTHORIZATION) at = i;
    }
    if (at < 0) return undefined;
    const [from, to] = [found[at + 1]!, found[at + 2]!];
    for (let i = 0; i < BEARER.length; i++) if ((this.bytes[from + i]! | 0x20) !== BEARER[i]) return undefined;
    return { from: from + BEARER.length, to };
  }

  /** Raw values by name; undefined if a text value is not ASCII. */
  headers(): ReadonlyMap<string, readonly string[]> | undefined {
    const all = new Map<string, string[]>();
    const found = this.#headers;
    for (let i = 0; i < found.length; i += 3) {
      const [from, to] = [found[i + 1]!, found[i + 2]!];
      const raw = this.#hasMap && this.#raw[i / 3]!;
      const value = raw ? latin1(this.bytes, from, to) : ascii(this.bytes, from, to);
      if (value === undefined) return undefined;
      const name = WANTED[found[i]!]!;
      const known = all.get(name);
      if (known === undefined) all.set(name, [value]);
      else known.push(value);
    }
    return all;
  }

  /** True if the first content-type is one of gRPC's. */
  get isGrpc(): boolean {
    const found = this.#headers;
    for (let i = 0; i < found.length; i += 3) {
      if (found[i] !== CONTENT_TYPE) continue;
      const [from, to] = [found[i + 1]!, found[i + 2]!];
      return to - from >= GRPC.length && this.bytes.compare(GRPC, 0, GRPC.length, from, from + GRPC.length) === 0;
    }
    return false;
  }

  get #headers(): readonly number[] {
    return this.#hasMap ? this.#mapped : this.#plain;
  }

  #attributes(end: number): void {
    while (this.#at < end) {
      const begin = this.#at;
      const tag = this.#tag();
      const stop = this.#stop(end);
      if (tag === 0x22) this.#request(stop);
      else if (tag === 0x0a) this.#source(stop);
      else if (tag === 0x52) {
        this.#extensions.push(begin, stop);
        this.#entry(stop);
      } else if (tag === 0x12 || tag === 0x5a || tag === 0x62 || tag === 0x6a) this.#at = stop;
      else throw new UnexpectedForm();
    }
  }

  #source(end: number): void {
    while (this.#at < end) {
      const tag = this.#tag();
      const stop = this.#stop(end);
      if (tag === 0x0a) this.#address(stop);
      else if (tag === 0x22) {
        this.#workloadFrom = this.#at;
        this.#workloadTo = this.#at = stop;
      } else if (tag === 0x12 || tag === 0x1a || tag === 0x2a) this.#at = stop;
      else throw new UnexpectedForm();
    }
  }

  #address(end: number): void {
    while (this.#at < end) {
      if (this.#tag() !== 0x0a) throw new UnexpectedForm();
      this.#socketAddress(this.#stop(end));
    }
  }

  #socketAddress(end: number): void {
    while (this.#at < end) {
      const tag = this.#tag();
      if (tag === 0x08 || tag === 0x18 || tag === 0x30) this.#number(end);
      else if (tag === 0x12) {
        const stop = this.#stop(end);
        this.#peerFrom = this.#at;
        this.#peerTo = this.#at = stop;
      } else throw new UnexpectedForm();
    }
  }

  #request(end: number): void {
    while (this.#at < end) {
      const tag = this.#tag();
      const stop = this.#stop(end);
      if (tag === 0x12) this.#httpRequest(stop);
      else if (tag === 0x0a) this.#at = stop;
      else throw new UnexpectedForm();
    }
  }

  #httpRequest(end: number): void {
    this.http = true;
    while (this.#at < end) {
      const tag = this.#tag();
      if (tag === 0x48) {
        this.#number(end);
        continue;
      }
      // Fields 1 to 13; all but the size are length-delimited.
      if ((tag & 7) !== 2 || tag < 0x0a || tag > 0x6a || tag === 0x4a) throw new UnexpectedForm();
      const stop = this.#stop(end);
      if (tag === 0x1a) {
        this.#entry(stop);
        this.#header(this.#plain);
      } else if (tag === 0x12) {
        this.#methodFrom = this.#at;
        this.#methodTo = this.#at = stop;
      } else if (tag === 0x22) {
        this.#pathFrom = this.#at;
        this.#pathTo = this.#at = stop;
      } else if (tag === 0x2a) {
        this.#hostFrom = this.#at;
        this.#hostTo = this.#at = stop;
      } else if (tag === 0x6a) this.#headerMap(stop);
      else this.#at = stop;
    }
  }

  #headerMap(end: number): void {
    while (this.#at < end) {
      if (this.#tag() !== 0x0a) throw new UnexpectedForm();
      this.#hasMap = true;
      this.#headerValue(this.#stop(end));
    }
  }

  #headerValue(end: number): void {
    let raw = false;
    this.#keyFrom = this.#keyTo = this.#from = this.#to = end;
    while (this.#at < end) {
      const tag = this.#tag();
      const stop = this.#stop(end);
      if (tag === 0x0a) {
        this.#keyFrom = this.#at;
        this.#keyTo = stop;
      } else if (tag === 0x12) {
        if (!raw) {
          this.#from = this.#at;
          this.#to = stop;
        }
      } else if (tag !== 0x1a) throw new UnexpectedForm();
      else if (stop > this.#at) {
        raw = true;
        this.#from = this.#at;
        this.#to = stop;
      } else if (raw) throw new UnexpectedForm();
      this.#at = stop;
    }
    if (this.#header(this.#mapped)) this.#raw.push(raw);
  }

  /** The key and value of a map entry. */
  #entry(end: number): void {
    this.#keyFrom = this.#keyTo = this.#from = this.#to = end;
    while (this.#at < end) {
      const tag = this.#tag();
      const stop = this.#stop(end);
      if (tag === 0x0a) {
        this.#keyFrom = this.#at;
        this.#keyTo = stop;
      } else if (tag === 0x12) {
        this.#from = this.#at;
        this.#to = stop;
      } else throw new UnexpectedForm();
      this.#at = stop;
    }
  }

  /** Remembers a header if an answer can depend on it. Names are compared as ASCII, case-insensitively. */
  #header(into: number[]): boolean {
    const wanted = BY_LENGTH[this.#keyTo - this.#keyFrom];
    if (wanted === undefined) return false;
    const name = NAMES[wanted]!;
    for (let i = 0, at = this.#keyFrom; i < name.length; i++, at++) {
      const octet = this.bytes[at]!;
      if ((octet >= 0x41 && octet <= 0x5a ? octet | 0x20 : octet) !== name[i]) return false;
    }
    into.push(wanted, this.#from, this.#to);
    return true;
  }

  /** A tag of one octet. All fields up to 15 have one. */
  #tag(): number {
    return this.bytes[this.#at++]!;
  }

  /** Reads a length and returns the end of the field. Throws if that is beyond `end`. */
  #stop(end: number): number {
    let length = this.bytes[this.#at++]!;
    if (length > 127) {
      length &= 127;
      for (let shift = 7; ; shift += 7) {
        const octet = this.bytes[this.#at++];
        if (octet === undefined || shift > 21) throw new UnexpectedForm();
        length |= (octet & 127) << shift;
        if (octet < 128) break;
      }
    }
    const stop = this.#at + length;
    if (!(stop <= end)) throw new UnexpectedForm();
    return stop;
  }

  /** Skips a varint. */
  #number(end: number): void {
    for (let octets = 1; ; octets++) {
      if (this.#at >= end || octets > 10) throw new UnexpectedForm();
      if (this.bytes[this.#at++]! < 128) return;
    }
  }
}

function targetOf(view: CheckRequestScanner): RequestTarget {
  return {
    get method() {
      return view.method ?? "";
    },
    get host() {
      return view.host;
    },
    get path() {
      return view.path;
    },
    get workload() {
      return view.workload;
    },
  };
}
