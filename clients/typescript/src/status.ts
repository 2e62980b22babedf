import type { Verdict } from "./decide.ts";

/** The trailer that tells a client the verdict. */
export const VERDICT_TRAILER = "sallyport-verdict";

/** The numbers of the gRPC status codes that a refusal can have. */
export const CODES = { PERMISSION_DENIED: 7, RESOURCE_EXHAUSTED: 8, UNAVAILABLE: 14, UNAUTHENTICATED: 16 } as const;

/** The status of a refused call. The message never says why a token is not live. */
export interface Refusal {
  readonly code: number;
  readonly message: string;
}

const REFUSALS: Readonly<Record<Exclude<Verdict, "ALLOW">, Refusal>> = {
  NO_CREDENTIAL: { code: CODES.UNAUTHENTICATED, message: "a bearer token is required" },
  INVALID_TOKEN: { code: CODES.UNAUTHENTICATED, message: "the token is not valid" },
  WRONG_AUDIENCE: { code: CODES.UNAUTHENTICATED, message: "the token is not for this service" },
  INSUFFICIENT_SCOPE: { code: CODES.PERMISSION_DENIED, message: "the token lacks a scope" },
  WRONG_TENANT: { code: CODES.PERMISSION_DENIED, message: "the token is not valid in this tenant" },
  ADDRESS_NOT_ALLOWED: { code: CODES.PERMISSION_DENIED, message: "the token is not accepted from this address" },
  RATE_LIMITED: { code: CODES.RESOURCE_EXHAUSTED, message: "too many requests with this token" },
  UNDETERMINED: { code: CODES.UNAVAILABLE, message: "the token cannot be checked now" },
};

/** The status of every verdict but ALLOW. A verdict that this version does not know is an outage, never an allow. */
export function refusalOf(verdict: Verdict): Refusal {
  return (REFUSALS as Partial<Record<Verdict, Refusal>>)[verdict] ?? REFUSALS.UNDETERMINED;
}
