import type { WireFailure } from "./failures.ts";
import type { Head } from "./head.ts";
import type { Failure, Protocol } from "./protocol.ts";
import type { Reply } from "./reply.ts";
import type { UnaryCall } from "./routes.ts";
import { parseConnectTimeout } from "./timeout.ts";

// The meaning of a request and the answers to its failures, alike on every server.

/** A call as its mount sees it. */
export interface ServedCall extends UnaryCall {
  /** Tells the server's owner of what a handler or a hook threw. */
  broke(error: unknown): void;
}

export const GRPC_PREFIX = 5;
/** The most milliseconds before the client's deadline at which a `failed` hook answers. */
const HEAD_START_MS = 10;

/** The answer the head alone calls for, with the body unread; undefined when the request may go on to its handler. */
export function refusal(head: Head, call: ServedCall): Reply | undefined {
  const target = head.target;
  const grpc = head.protocol === "grpc" && target?.plain !== true;
  const { refusals } = head.failures;
  if (head.oversized) return grpc ? failure(call, "oversized", head) : refusals.head_too_large;
  if (head.method === "CONNECT") return refusals.wrong_method;
  if (!head.authorityIsGood) return grpc ? failure(call, "undecodable", head) : refusals.bad_head;
  if (target === undefined) return head.failures.unknown?.(head.path, call.protocol) ?? unknown(call, head);
  if (target.plain) return undefined;
  if (head.method !== "POST") return refusals.wrong_method;
  if (grpc) {
    if (head.grpcEncoding !== "identity") return failure(call, "compressed", head);
    if (Number.isNaN(head.grpcTimeout)) return failure(call, "undecodable", head);
    return undefined;
  }
  return head.protocol === "http" ? refusals.wrong_type : connectRefusal(head, call);
}

function unknown(call: ServedCall, head: Head): Reply {
  return call.protocol === "grpc" ? bareFailure(call, "unknown_method", head) : head.failures.refusals.unknown_path;
}

function connectRefusal(head: Head, call: ServedCall): Reply | undefined {
  if ((head.first("content-encoding") ?? "identity") !== "identity") return failure(call, "compressed", head);
  const badVersion = (head.first("connect-protocol-version") ?? "1") !== "1";
  return badVersion || Number.isNaN(connectTimeout(head)) ? failure(call, "undecodable", head) : undefined;
}

function connectTimeout(head: Head): number | undefined {
  const value = head.first("connect-timeout-ms");
  return value === undefined ? undefined : parseConnectTimeout(value);
}

/** The protocol of a call. A plain route is HTTP whatever the content type says. */
export function protocolFor(head: Head): Protocol {
  return head.target?.plain === true ? "http" : head.protocol;
}

/** The time of the call in milliseconds: the client's timeout, at most the route's. */
export function timeFor(head: Head): number {
  const target = head.target;
  if (target === undefined) return 0;
  const cap = target.route.deadlineMs;
  const asked = target.plain ? undefined : head.protocol === "grpc" ? head.grpcTimeout : connectTimeout(head);
  if (asked === undefined || Number.isNaN(asked)) return cap;
  const usable = target.route.failed === undefined ? asked : asked - Math.min(HEAD_START_MS, asked / 10);
  return Math.min(usable, cap);
}

/** The most octets the body of this request may have. */
export function bodyLimit(head: Head): number {
  const route = head.target?.route;
  if (route === undefined) return 0;
  return protocolFor(head) === "grpc" ? route.maxMessage + GRPC_PREFIX : route.maxMessage;
}

/** Why the octets of a gRPC body that have come so far, bytes[start, end), can no longer become an allowed message. */
export function prefixFailure(bytes: Buffer, start: number, end: number, maxMessage: number): Failure | undefined {
  if (end - start < GRPC_PREFIX) return undefined;
  const flag = bytes[start]!;
  if (flag !== 0) return flag === 1 ? "compressed" : "undecodable";
  return bytes.readUInt32BE(start + 1) > maxMessage ? "oversized" : undefined;
}

/**
 * Runs the handler of a request whose body bytes[start, end) is whole. Never throws: what the handler throws is
 * answered as this call's "internal".
 */
export function perform(
  head: Head,
  call: ServedCall,
  bytes: Buffer,
  start: number,
  end: number,
): Reply | Promise<Reply> {
  const { route, copies } = head.target!;
  let from = start;
  if (call.protocol === "grpc") {
    from += GRPC_PREFIX;
    const why = prefixFailure(bytes, start, end, route.maxMessage);
    if (why !== undefined) return failure(call, why, head);
    const rest = end - from - (end >= from ? bytes.readUInt32BE(start + 1) : 0);
    if (rest !== 0) return notOneMessage(call, head, end === start || (rest >= GRPC_PREFIX && end > from));
  } else if (end - start > route.maxMessage) return failure(call, "oversized", head);
  try {
    const message = bytes.subarray(from, end);
    return route.handler(copies ? call.copy(message) : message, call);
  } catch (error) {
    call.broke(error);
    return failure(call, "internal", head);
  }
}

/** None, or more than one, is a wrong number of messages; anything else is a broken frame. */
function notOneMessage(call: ServedCall, head: Head, wrongNumber: boolean): Reply {
  const bare = wrongNumber && head.target!.route.failed === undefined;
  return bare ? bareFailure(call, "cardinality", head) : failure(call, "undecodable", head);
}

/** The route's own answer to a failure, or the error of the call's protocol. */
export function failure(call: ServedCall, kind: Failure, head: Head): Reply {
  const route = head.target?.route;
  if (route?.failed !== undefined) {
    try {
      return route.failed(call, kind);
    } catch (error) {
      call.broke(error);
      return bareFailure(call, "internal", head);
    }
  }
  return bareFailure(call, kind, head);
}

function bareFailure(call: ServedCall, kind: WireFailure, head: Head): Reply {
  return head.failures[kind][call.protocol];
}
