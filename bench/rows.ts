import { Verdict } from "../src/gen/sallyport/v1/token_validator_pb.ts";
import type { Shape } from "./h2load.ts";
import type { PeerName } from "./peers.ts";
import type { Tokens, Variant } from "./product.ts";
import {
  check,
  httpCheck,
  introspect,
  type Request,
  throughProxy,
  validateBatch,
  validateGrpc,
  validateJson,
} from "./request.ts";

/** One line of the table: the server, the requests and the load. */
export interface Row {
  readonly table: string;
  readonly title: string;
  readonly subject: SubjectName;
  readonly shape: Shape;
  /** Sent in turn. h2load sends a single request; our own generator sends several. */
  readonly requests: (tokens: Tokens) => readonly Request[];
  /** Sallyport only: the tier that must give nearly all answers, so that the row measures the intended path. */
  readonly tier?: "l1" | "l2" | "store" | "none";
}

export const PRODUCTS = {
  sallyport: "tcp",
  "sallyport, unix socket": "unix",
  "sallyport on node:http2": "node",
  "sallyport, L1 of 16 tokens": "small",
  "sallyport, L1 of 16 tokens, Redis": "redis",
} as const satisfies Record<string, Variant>;

/** The authorizers that Envoy asks about the requests. */
export const BEHIND_ENVOY = {
  "sallyport behind Envoy": "sallyport",
  "Go ext_authz, GOGC=100, behind Envoy": "Go ext_authz, GOGC=100",
  "Go ext_authz, GOGC=400, behind Envoy": "Go ext_authz, GOGC=400",
  "Envoy alone": undefined,
} as const satisfies Record<string, "sallyport" | PeerName | undefined>;

export type ProductName = keyof typeof PRODUCTS;
export type ProxiedName = keyof typeof BEHIND_ENVOY;
export type SubjectName = ProductName | PeerName | ProxiedName;

export const SHAPES = {
  "4 × 32": { connections: 4, streams: 32 },
  "64 × 1": { connections: 64, streams: 1 },
  "1 × 1": { connections: 1, streams: 1 },
} as const satisfies Record<string, Shape>;

const HTTP1: Shape = { connections: 32, streams: 1 };

export const VALIDATE = "ValidateToken over gRPC";
export const CHECK = "Check (Envoy ext_authz), 18 headers";
export const ENVOY = "Through a real Envoy, HTTP/1.1";

const live = ({ live: token }: Tokens) => [validateGrpc(token, Verdict.ALLOW)];

function validateRows(): Row[] {
  const subjects: SubjectName[] = [
    "sallyport",
    "sallyport, unix socket",
    "own http2 echo",
    "own http2, same work",
    "sallyport on node:http2",
    "node:http2, same work",
    "grpc-js echo",
    "connect-node echo",
    "grpc-go, same work, GOGC=100",
    "grpc-go, same work, GOGC=400",
  ];
  return Object.entries(SHAPES).flatMap(([title, shape]) =>
    subjects.map((subject): Row => {
      const tier = subject.startsWith("sallyport") ? ({ tier: "l1" } as const) : undefined;
      return { table: VALIDATE, title, subject, shape, requests: live, ...tier };
    }),
  );
}

function otherRows(): Row[] {
  const many = SHAPES["4 × 32"];
  const protocols = "ValidateToken over Connect";
  const json = (http1: boolean) => (tokens: Tokens) => [validateJson(tokens.live, http1)];
  const answers = "ValidateToken over gRPC, 4 × 32, by what the answer rests on";
  const ways = "Other questions";
  const cycled = ({ many: all }: Tokens) => all.map((token) => validateGrpc(token, Verdict.ALLOW));
  const check4 = { table: CHECK, title: "4 × 32", shape: many, requests: (t: Tokens) => [check(t.live)] } as const;
  return [
    {
      table: protocols,
      title: "JSON, HTTP/2, 4 × 32",
      subject: "sallyport",
      shape: many,
      requests: json(false),
      tier: "l1",
    },
    {
      table: protocols,
      title: "JSON, HTTP/1.1, 32 × 1",
      subject: "sallyport",
      shape: HTTP1,
      requests: json(true),
      tier: "l1",
    },
    {
      table: protocols,
      title: "JSON, HTTP/2, 4 × 32",
      subject: "connect-node echo",
      shape: many,
      requests: json(false),
    },
    {
      table: protocols,
      title: "JSON, HTTP/1.1, 32 × 1",
      subject: "connect-node echo, HTTP/1.1",
      shape: HTTP1,
      requests: json(true),
    },
    { table: answers, title: "L1 hit", subject: "sallyport", shape: many, requests: live, tier: "l1" },
    {
      table: answers,
      title: "L1 hits of 2,048 tokens in turn (own generator)",
      subject: "sallyport",
      shape: many,
      requests: cycled,
      tier: "l1",
    },
    {
      table: answers,
      title: "L2 hits of 2,048 tokens in turn (own generator)",
      subject: "sallyport, L1 of 16 tokens, Redis",
      shape: many,
      requests: cycled,
      tier: "l2",
    },
    {
      table: answers,
      title: "misses of 2,048 tokens in turn (own generator)",
      subject: "sallyport, L1 of 16 tokens",
      shape: many,
      requests: cycled,
      tier: "store",
    },
    {
      table: answers,
      title: "refused: revoked",
      subject: "sallyport",
      shape: many,
      requests: (t) => [validateGrpc(t.revoked, Verdict.INVALID_TOKEN)],
      tier: "l1",
    },
    {
      table: answers,
      title: "forged",
      subject: "sallyport",
      shape: many,
      requests: (t) => [validateGrpc(t.forged, Verdict.INVALID_TOKEN)],
      tier: "none",
    },
    {
      table: ways,
      title: "batch of 100, 4 × 8",
      subject: "sallyport",
      shape: { connections: 4, streams: 8 },
      requests: (t) => [validateBatch(t.many.slice(0, 100))],
      tier: "l1",
    },
    {
      table: ways,
      title: "HTTP check, HTTP/1.1, 32 × 1",
      subject: "sallyport",
      shape: HTTP1,
      requests: (t) => [httpCheck(t.live)],
      tier: "l1",
    },
    {
      table: ways,
      title: "introspection, HTTP/1.1, 32 × 1",
      subject: "sallyport",
      shape: HTTP1,
      requests: (t) => [introspect(t.live)],
      tier: "l1",
    },
    { ...check4, subject: "sallyport", tier: "l1" },
    { ...check4, subject: "Go ext_authz, GOGC=100" },
    { ...check4, subject: "Go ext_authz, GOGC=400" },
  ];
}

function envoyRows(): Row[] {
  return (["64 × 1", "1 × 1"] as const).flatMap((title) =>
    (Object.keys(BEHIND_ENVOY) as ProxiedName[]).map(
      (subject): Row => ({
        table: ENVOY,
        title,
        subject,
        shape: SHAPES[title],
        requests: (t) => [throughProxy(t.live)],
        ...(BEHIND_ENVOY[subject] === "sallyport" && { tier: "l1" }),
      }),
    ),
  );
}

export function allRows(): Row[] {
  return [...validateRows(), ...otherRows(), ...envoyRows()];
}

/** The rows that the short form needs to judge the ratios. */
export function shortRows(): Row[] {
  const subjects: readonly SubjectName[] = ["sallyport", "node:http2, same work", "grpc-go, same work, GOGC=400"];
  const checked: readonly SubjectName[] = ["sallyport", "Go ext_authz, GOGC=400"];
  const proxied: readonly SubjectName[] = [
    "sallyport behind Envoy",
    "Go ext_authz, GOGC=400, behind Envoy",
    "Envoy alone",
  ];
  return allRows().filter(
    ({ table, title, subject }) =>
      (table === VALIDATE && title !== "1 × 1" && subjects.includes(subject)) ||
      (table === CHECK && checked.includes(subject)) ||
      (table === ENVOY && title === "64 × 1" && proxied.includes(subject)),
  );
}
