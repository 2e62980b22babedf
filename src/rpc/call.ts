import { randomUUID } from "node:crypto";
import { create, type DescMessage, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { type ContextKey, type ContextValues, createContextKey } from "@connectrpc/connect";
import type { Caller } from "../domain/caller.ts";
import { AppError, invalidField } from "../domain/errors.ts";
import type { Access } from "../management/access.ts";
import type { PageStart, Part } from "../management/ports.ts";
import type { Span } from "../telemetry/tracing.ts";
import type { Method } from "./methods.ts";
import type { Peer } from "./peer.ts";

/** One call of the admin listener. The steps of `pipeline.ts` fill in the fields that are not readonly. */
export interface Call {
  readonly method: Method;
  /** Every occurrence of a request header, joined. */
  readonly header: (name: string) => string | null;
  /** Its `authorization`, or a credential from elsewhere in the request. */
  readonly credential: () => string | null | Promise<string | null>;
  /** Sets a header of the response. */
  readonly respond?: (name: string, value: string) => void;
  /** The caller's deadline in monotonic time; undefined for none. */
  readonly deadline: number | undefined;
  /** Throws if the request is out of its bounds. */
  validate: () => void | Promise<void>;
  /** The start of the call's duration, in monotonic time. */
  started: number;
  /** First the socket's peer, then the client behind trusted proxies. */
  peer: Peer;
  requestId: string;
  caller?: Caller;
  access?: Access;
  /** Returns the slot of admission. */
  leave?: () => void;
  span?: Span;
}

export const callKey: ContextKey<Call | undefined> = createContextKey<Call | undefined>(undefined, {
  description: "call",
});

/** The access of an authenticated call. A handler without one is a bug, and the call is refused. */
export function accessOf(context: { readonly values: ContextValues; readonly signal?: AbortSignal }): Access {
  const access = context.values.get(callKey)?.access;
  if (access === undefined) throw new AppError("CALLER_UNAUTHENTICATED", "a credential is required");
  return context.signal === undefined ? access : { ...access, signal: context.signal };
}

/** The id of a request: the client's own if it is short and harmless, else a new one. */
export function requestIdFrom(header: string | null | undefined): string {
  return header !== null && header !== undefined && /^[A-Za-z0-9._-]{1,48}$/.test(header) ? header : randomUUID();
}

/**
 * A page ends at this size, however many items were requested, because gRPC clients accept 4 MiB and JSON is longer.
 */
const PAGE_BYTES = 2 * 1024 * 1024;
/** The bytes that the list adds to each item: its tag and length. */
const FRAME_BYTES = 5;
/** Rows that become messages in one turn of the event loop, about 0.2 ms. Validations run between the turns. */
const ROWS_A_TURN = 32;

/** The number of items in a page: 50 by default. */
export function pageSize(asked: number): number {
  if (asked < 0 || asked > 500) throw invalidField("page_size", "must be 0 to 500");
  return asked === 0 ? 50 : asked;
}

/**
 * The answer with one page of a list: as many messages as fit into 2 MiB, and the start of the next page. The first
 * message always fits.
 */
export async function page<T, S extends DescMessage>(
  { rows, rest }: Part<T>,
  schema: S,
  message: (row: T) => MessageInitShape<S>,
  place: (row: T) => PageStart,
): Promise<{ items: MessageShape<S>[]; next: PageStart | undefined }> {
  const items: MessageShape<S>[] = [];
  let bytes = 0;
  for (const row of rows) {
    const item = create(schema, message(row));
    bytes += toBinary(schema, item).length + FRAME_BYTES;
    if (bytes > PAGE_BYTES && items.length > 0) return { items, next: place(rows[items.length - 1]!) };
    items.push(item);
    if (items.length % ROWS_A_TURN === 0) await new Promise(setImmediate);
  }
  return { items, next: rest };
}

/** For a field that the mask names and the message omits, if it has no default to set. */
export function unspecified(field: string): never {
  throw invalidField(field, "must be given where update_mask names it");
}

/** The paths of an update mask, each known and unique. INVALID_FIELD for any other mask, and for an empty one. */
export function maskOf<P extends string>(paths: readonly string[] | undefined, known: readonly P[]): ReadonlySet<P> {
  if (paths === undefined || paths.length === 0) {
    throw invalidField("update_mask", `must name at least one of ${known.join(", ")}`);
  }
  for (const path of paths) {
    if (!known.includes(path as P)) throw invalidField("update_mask", `must only name ${known.join(", ")}`);
  }
  return new Set(paths as P[]);
}
