import { fromBinary } from "@bufbuild/protobuf";
import { CheckRequestSchema } from "../gen/envoy/service/auth/v3/external_auth_pb.ts";

/** What a CheckRequest says, as far as we need it. */
export interface CheckFacts {
  /** Whether there is an HTTP request at all: a network filter sends none. */
  readonly http: boolean;
  readonly method: string;
  /** The connection's other end, as the proxy saw it. */
  readonly peer: string;
  readonly extensions: ReadonlyMap<string, string>;
  /** Raw values by lower-case name; only of the headers that we look at. */
  readonly headers: ReadonlyMap<string, readonly string[]>;
}

/** The headers that an answer can depend on. */
const WANTED: ReadonlySet<string> = new Set([
  "authorization",
  "x-api-key",
  "content-type",
  "x-envoy-external-address",
  "x-forwarded-for",
  "origin",
  "access-control-request-method",
]);

const LENGTHS: ReadonlySet<number> = new Set([...WANTED].map(({ length }) => length));

/** Reads a CheckRequest: by hand where it is as Envoy sends it, else by the full decoder. Throws for what is none. */
export function readCheck(message: Uint8Array): CheckFacts {
  return new Walk(message).facts() ?? decodeCheck(message);
}

/** The same by the generated decoder. */
export function decodeCheck(message: Uint8Array): CheckFacts {
  const { attributes } = fromBinary(CheckRequestSchema, message);
  const http = attributes?.request?.http;
  const headers = new Map<string, string[]>();
  const list = http?.headerMap?.headers ?? [];
  const add = (name: string, value: string) => {
    const key = name.toLowerCase();
    if (WANTED.has(key)) headers.set(key, [...(headers.get(key) ?? []), value]);
  };
  for (const { key, value, rawValue } of list) {
    add(key, rawValue.length > 0 ? Buffer.from(rawValue).toString("latin1") : value);
  }
  if (list.length === 0) for (const [key, value] of Object.entries(http?.headers ?? {})) add(key, value);
  const address = attributes?.source?.address?.address;
  return {
    http: http !== undefined,
    method: http?.method ?? "",
    peer: address?.case === "socketAddress" ? address.value.address : "",
    extensions: new Map(Object.entries(attributes?.contextExtensions ?? {})),
    headers,
  };
}

class Odd extends Error {}

/** One pass over the bytes that makes strings only of what is wanted. */
class Walk {
  readonly #bytes: Buffer;
  #at = 0;
  #http = false;
  #method = "";
  #peer = "";
  readonly #extensions = new Map<string, string>();
  readonly #plain = new Map<string, string[]>();
  readonly #mapped = new Map<string, string[]>();
  #hasMap = false;

  constructor(message: Uint8Array) {
    this.#bytes = Buffer.isBuffer(message) ? message : Buffer.from(message.buffer, message.byteOffset, message.length);
  }

  /** Undefined for what is out of the ordinary. */
  facts(): CheckFacts | undefined {
    try {
      this.#fields(this.#bytes.length, (field, end) => {
        if (field === 1) this.#attributes(end);
      });
    } catch (error) {
      if (error instanceof Odd) return undefined;
      throw error;
    }
    const headers = this.#hasMap ? this.#mapped : this.#plain;
    return { http: this.#http, method: this.#method, peer: this.#peer, extensions: this.#extensions, headers };
  }

  #attributes(end: number): void {
    this.#fields(end, (field, stop) => {
      if (field === 4) this.#fields(stop, (inner, innerStop) => inner === 2 && this.#httpRequest(innerStop));
      else if (field === 1) this.#source(stop);
      else if (field === 10) {
        this.#entry(stop);
        this.#extensions.set(this.#text(this.#keyFrom, this.#keyTo), this.#text(this.#from, this.#to));
      }
    });
  }

  #source(end: number): void {
    this.#fields(end, (field, stop) => {
      if (field !== 1) return;
      this.#fields(stop, (kind, kindStop) => {
        if (kind !== 1) return;
        this.#fields(kindStop, (part, partStop) => {
          if (part === 2) this.#peer = this.#text(this.#at, partStop);
        });
      });
    });
  }

  #httpRequest(end: number): void {
    this.#http = true;
    this.#fields(end, (field, stop) => {
      if (field === 2) this.#method = this.#text(this.#at, stop);
      else if (field === 3) {
        this.#entry(stop);
        this.#header(this.#plain, false);
      } else if (field === 13) {
        this.#fields(stop, (inner, innerStop) => {
          if (inner !== 1) return;
          this.#hasMap = true;
          this.#headerValue(innerStop);
        });
      }
    });
  }

  #keyFrom = 0;
  #keyTo = 0;
  #from = 0;
  #to = 0;

  #headerValue(end: number): void {
    let raw = false;
    this.#keyFrom = this.#keyTo = this.#from = this.#to = end;
    this.#fields(end, (field, stop) => {
      if (field === 1) [this.#keyFrom, this.#keyTo] = [this.#at, stop];
      else if (field === 2 && !raw) [this.#from, this.#to] = [this.#at, stop];
      else if (field === 3 && stop > this.#at) [this.#from, this.#to, raw] = [this.#at, stop, true];
    });
    this.#header(this.#mapped, raw);
  }

  /** Makes strings of a header only if it is one that an answer can depend on. */
  #header(into: Map<string, string[]>, raw: boolean): void {
    if (!LENGTHS.has(this.#keyTo - this.#keyFrom)) return;
    const key = this.#text(this.#keyFrom, this.#keyTo).toLowerCase();
    if (!WANTED.has(key)) return;
    const value = raw ? this.#bytes.toString("latin1", this.#from, this.#to) : this.#text(this.#from, this.#to);
    const known = into.get(key);
    if (known === undefined) into.set(key, [value]);
    else known.push(value);
  }

  /** A map entry's key and value, as places. */
  #entry(end: number): void {
    this.#keyFrom = this.#keyTo = this.#from = this.#to = end;
    this.#fields(end, (field, stop) => {
      if (field === 1) [this.#keyFrom, this.#keyTo] = [this.#at, stop];
      else if (field === 2) [this.#from, this.#to] = [this.#at, stop];
    });
  }

  /** Visits the length-delimited fields up to `end`; skips the others. */
  #fields(end: number, visit: (field: number, stop: number) => unknown): void {
    const bytes = this.#bytes;
    while (this.#at < end) {
      const tag = this.#varint();
      const wire = tag & 7;
      if (wire === 2) {
        const stop = this.#varint() + this.#at;
        if (stop > end) throw new Odd();
        visit(tag >>> 3, stop);
        this.#at = stop;
      } else if (wire === 0) this.#varint();
      else if (wire === 5) this.#at += 4;
      else if (wire === 1) this.#at += 8;
      else throw new Odd();
    }
    if (this.#at !== end || end > bytes.length) throw new Odd();
  }

  #varint(): number {
    const bytes = this.#bytes;
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[this.#at++];
      if (byte === undefined) throw new Odd();
      if (shift < 28) value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw new Odd();
  }

  /** ASCII only: anything else is left to the decoder that knows UTF-8. */
  #text(from: number, to: number): string {
    const bytes = this.#bytes;
    for (let i = from; i < to; i++) if (bytes[i]! > 127) throw new Odd();
    return bytes.toString("latin1", from, to);
  }
}
