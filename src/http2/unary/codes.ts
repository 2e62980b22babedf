// gRPC status codes and what the Connect protocol calls and maps them to ("Error Codes").

export const INVALID_ARGUMENT = 3;
export const DEADLINE_EXCEEDED = 4;
export const RESOURCE_EXHAUSTED = 8;
export const UNIMPLEMENTED = 12;
export const INTERNAL = 13;

const CODES: readonly (readonly [name: string, httpStatus: number])[] = [
  ["ok", 200],
  ["canceled", 499],
  ["unknown", 500],
  ["invalid_argument", 400],
  ["deadline_exceeded", 504],
  ["not_found", 404],
  ["already_exists", 409],
  ["permission_denied", 403],
  ["resource_exhausted", 429],
  ["failed_precondition", 400],
  ["aborted", 409],
  ["out_of_range", 400],
  ["unimplemented", 501],
  ["internal", 500],
  ["unavailable", 503],
  ["data_loss", 500],
  ["unauthenticated", 401],
];
const UNKNOWN = CODES[2]!;

/** The Connect name of a gRPC code; `unknown` for a number that is none. */
export function connectCode(code: number): string {
  return (CODES[code] ?? UNKNOWN)[0];
}

/** The HTTP status of a Connect unary error. */
export function connectStatus(code: number): number {
  return (CODES[code] ?? UNKNOWN)[1];
}
