import { fromBinary } from "@bufbuild/protobuf";
import type { RequestTarget } from "../../domain/decide.ts";
import { CheckRequestSchema } from "../../gen/envoy/service/auth/v3/external_auth_pb.ts";
import { keptTarget } from "../request-target.ts";
import { type CheckRequestScanner, WANTED } from "./check-request-scanner.ts";

/** The fields of a CheckRequest that we need. */
export interface CheckFacts {
  /** True if there is an HTTP request. A network filter sends none. */
  readonly http: boolean;
  readonly method: string;
  /** The other end of the proxy's connection, as the proxy reports it. */
  readonly peer: string;
  readonly extensions: ReadonlyMap<string, string>;
  /** Raw values by lower-case name, only of the headers that we use. */
  readonly headers: ReadonlyMap<string, readonly string[]>;
  /** Only for the record of uses. */
  readonly target: RequestTarget;
}

/** Undefined if a value is not ASCII. The decoder then reads it as UTF-8. */
export function factsOf(view: CheckRequestScanner): CheckFacts | undefined {
  const { http, method, peer, extensions } = view;
  const headers = view.headers();
  if (peer === undefined || method === undefined || extensions === undefined || headers === undefined) return undefined;
  return { http, method, peer, extensions, headers, target: keptTarget(view.target) };
}

const NAMES: ReadonlySet<string> = new Set(WANTED);

/** Decodes with the generated decoder. `further`: headers that the policy uses besides. */
export function decodeCheck(message: Uint8Array, further: readonly string[] = []): CheckFacts {
  const { attributes } = fromBinary(CheckRequestSchema, message);
  const http = attributes?.request?.http;
  const headers = new Map<string, string[]>();
  const list = http?.headerMap?.headers ?? [];
  const add = (name: string, value: string) => {
    const key = name.toLowerCase();
    // Excludes names whose characters are equal only after Unicode lower-casing.
    if ((!NAMES.has(key) && !further.includes(key)) || Buffer.byteLength(name) !== key.length) return;
    const known = headers.get(key);
    if (known === undefined) headers.set(key, [value]);
    else known.push(value);
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
    target: {
      method: http?.method ?? "",
      host: http?.host ?? "",
      path: http?.path ?? "",
      workload: attributes?.source?.principal ?? "",
    },
  };
}
