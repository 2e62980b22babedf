import {
  AUTHORITY,
  CONTENT_LENGTH,
  CONTENT_TYPE,
  type Field,
  FORBIDDEN,
  GRPC_ENCODING,
  GRPC_TIMEOUT,
  HOST,
  LAST_PSEUDO,
  METHOD,
  OTHER,
  PATH,
  SCHEME,
  TE,
} from "../wire/field.ts";
import type { FieldSink } from "../wire/hpack.ts";
import { isAuthority, isUnixAuthority } from "./authority.ts";
import type { Failures } from "./failures.ts";
import type { Protocol } from "./protocol.ts";
import type { RouteTable, Target } from "./routes.ts";
import { parseGrpcTimeout } from "./timeout.ts";

/** A request without its body, as far as the server must understand it. */
export class Head {
  method = "";
  path = "";
  authority: string | undefined;
  authorityIsGood = false;
  /** The route of the path; undefined for a path nobody serves. */
  target: Target | undefined;
  /** By content type alone; "http" for every type that is neither gRPC's nor Connect's. */
  protocol: Protocol = "http";
  /** Regular fields in order. */
  readonly fields: Field[] = [];
  /** -1 when not sent. */
  contentLength = -1;
  /** Milliseconds; undefined when not sent, NaN when it is no timeout. */
  grpcTimeout: number | undefined;
  grpcEncoding = "identity";
  /** A stream error of type PROTOCOL_ERROR (RFC 9113 §8.1.1). */
  malformed = false;
  /** More than the header limits allow. */
  oversized = false;
  /** Octets of the list, RFC 9113 §6.5.2 counting. */
  listSize = 0;
  /** The server's answers to what fails. */
  readonly failures: Failures;

  constructor(failures: Failures) {
    this.failures = failures;
  }

  /** The first value of a regular field. */
  first(name: string): string | undefined {
    for (const field of this.fields) if (field.name === name) return field.value;
    return undefined;
  }
}

export interface HeadLimits {
  /** Octets of the decoded list, RFC 9113 §6.5.2 counting. */
  readonly maxHeaderList: number;
  /** Fields, pseudo-headers included. */
  readonly maxHeaderPairs: number;
}

/** Understands the fields of one block after the other: `start`, the fields, `finish`. One serves a whole server. */
export class HeadReader implements FieldSink {
  private readonly table: RouteTable;
  private readonly limits: HeadLimits;
  private readonly isAuthority: (text: string) => boolean;
  private head: Head;
  private trailers = false;
  private seen = 0;
  private hosts = 0;
  private pairs = 0;
  /** Octets of the list decoded last, beyond the limit too: what the block cost. */
  listSize = 0;

  /** `unix`: the listener is a unix socket. */
  constructor(table: RouteTable, limits: HeadLimits, unix: boolean) {
    this.table = table;
    this.limits = limits;
    this.isAuthority = unix ? isUnixAuthority : isAuthority;
    this.head = new Head(table.failures);
  }

  start(kind: "request" | "trailers"): void {
    this.head = new Head(this.table.failures);
    this.trailers = kind === "trailers";
    this.seen = 0;
    this.hosts = 0;
    this.pairs = 0;
    this.listSize = 0;
  }

  /** A request's head is complete only with :method, :scheme and :path; CONNECT has but its method (RFC 9113 §8.5). */
  finish(): Head {
    const head = this.head;
    head.listSize = this.listSize;
    if (this.trailers) return head;
    const all = (1 << METHOD) | (1 << SCHEME) | (1 << PATH);
    const isConnect = head.method === "CONNECT" && (this.seen & ((1 << SCHEME) | (1 << PATH))) === 0;
    if ((this.seen & all) !== all && !isConnect && !head.oversized) head.malformed = true;
    if (this.hosts > 1) head.authorityIsGood = false;
    return head;
  }

  /** True if the block held a pseudo-header: it was meant to open a stream. */
  get opensStream(): boolean {
    return this.seen !== 0;
  }

  field(field: Field): void {
    const head = this.head;
    this.listSize += field.size;
    if (++this.pairs > this.limits.maxHeaderPairs || this.listSize > this.limits.maxHeaderList) {
      head.oversized = true;
      return;
    }
    if (field.bad) head.malformed = true;
    const role = field.role;
    if (role !== OTHER && role <= LAST_PSEUDO) {
      this.pseudo(field, role);
      return;
    }
    head.fields.push(field);
    if (role !== OTHER) this.regular(field, role);
  }

  private pseudo(field: Field, role: number): void {
    const head = this.head;
    const bit = 1 << role;
    // Before the regular fields, once, never in trailers (RFC 9113 §8.1, §8.3).
    if (head.fields.length > 0 || this.trailers || (this.seen & bit) !== 0) head.malformed = true;
    this.seen |= bit;
    if (field.value === "" && role !== AUTHORITY) head.malformed = true;
    if (role === METHOD) head.method = field.value;
    else if (role === PATH) {
      head.path = field.value;
      head.target = meaningOf(field, this.findTarget) as Target | undefined;
    } else if (role === AUTHORITY) this.authority(field);
  }

  private regular(field: Field, role: number): void {
    const head = this.head;
    switch (role) {
      case CONTENT_TYPE:
        head.protocol = meaningOf(field, protocolOf) as Protocol;
        return;
      case TE:
        if (field.value !== "trailers") head.malformed = true;
        return;
      case GRPC_TIMEOUT:
        head.grpcTimeout = meaningOf(field, parseGrpcTimeout) as number;
        return;
      case GRPC_ENCODING:
        head.grpcEncoding = field.value;
        return;
      case CONTENT_LENGTH:
        this.contentLength(meaningOf(field, parseContentLength) as number);
        return;
      case HOST:
        this.authority(field);
        return;
      case FORBIDDEN:
        head.malformed = true;
    }
  }

  /** `:authority` and `host` may both come, but only to say the same. */
  private authority(field: Field): void {
    const head = this.head;
    if (head.authority === undefined) {
      head.authority = field.value;
      head.authorityIsGood = meaningOf(field, this.isAuthority) as boolean;
    } else if (head.authority.toLowerCase() !== field.value.toLowerCase()) head.authorityIsGood = false;
    if (field.role === HOST) this.hosts++;
  }

  private contentLength(length: number): void {
    const head = this.head;
    if (length < 0 || (head.contentLength >= 0 && head.contentLength !== length)) head.malformed = true;
    head.contentLength = length;
  }

  private readonly findTarget = (path: string): Target | undefined => this.table.find(path);
}

const NOTHING = Symbol("nothing");

/** Reads a value once per field that stays in a table; a stable connection sends the same fields with every request. */
function meaningOf(field: Field, read: (value: string) => unknown): unknown {
  if (field.shared) return read(field.value);
  if (field.meaning === undefined) field.meaning = read(field.value) ?? NOTHING;
  return field.meaning === NOTHING ? undefined : field.meaning;
}

/** Octets; negative for what is no length. */
function parseContentLength(value: string): number {
  if (value.length < 1 || value.length > 15) return -2;
  let length = 0;
  for (let i = 0; i < value.length; i++) {
    const digit = value.charCodeAt(i) - 0x30;
    if (digit < 0 || digit > 9) return -2;
    length = length * 10 + digit;
  }
  return length;
}

/** The protocol a content type selects; its parameters do not matter. */
export function protocolOf(contentType: string): Protocol {
  const semicolon = contentType.indexOf(";");
  const type = (semicolon < 0 ? contentType : contentType.slice(0, semicolon)).trim().toLowerCase();
  switch (type) {
    case "application/grpc":
    case "application/grpc+proto":
      return "grpc";
    case "application/proto":
      return "connect-proto";
    case "application/json":
      return "connect-json";
    default:
      return "http";
  }
}
