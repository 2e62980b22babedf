const MILLISECONDS: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1_000,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};
const GRPC = /^([0-9]{1,8})([HMSmun])$/;
const CONNECT = /^[0-9]{1,10}$/;

/** `grpc-timeout` (gRPC over HTTP/2, "Requests") in milliseconds; NaN when it is not one. */
export function parseGrpcTimeout(value: string): number {
  const parts = GRPC.exec(value);
  return parts === null ? Number.NaN : Number(parts[1]) * MILLISECONDS[parts[2]!]!;
}

/** `connect-timeout-ms` (Connect protocol, "Unary-Request") in milliseconds; NaN when it is not one. */
export function parseConnectTimeout(value: string): number {
  return CONNECT.test(value) ? Number(value) : Number.NaN;
}
