import type { Peer } from "../rpc/peer.ts";

type Listener = Peer["listener"];

/** Where everything is that any listener serves: by the start of its path. */
const HOMES: readonly (readonly [start: string, home: Listener])[] = [
  ["/sallyport.v1.TokenValidator/", "data"],
  ["/envoy.service.auth.v3.Authorization/", "data"],
  ["/v1/check/", "data"],
  ["/v1/introspect", "data"],
  ["/sallyport.v1.TokenAdmin/", "admin"],
  ["/sallyport.v1.PrincipalAdmin/", "admin"],
  ["/sallyport.v1.TenantAdmin/", "admin"],
  ["/sallyport.v1.AuditLog/", "admin"],
  ["/grpc.reflection.v1.ServerReflection/", "admin"],
  ["/grpc.reflection.v1alpha.ServerReflection/", "admin"],
  ["/v1/revoke", "admin"],
  ["/openapi.json", "admin"],
  ["/metrics", "ops"],
  ["/healthz", "ops"],
  ["/readyz", "ops"],
];

/** Why a listener does not serve a path, without a byte of it. */
export function whyUnknown(path: string, here: Listener): string {
  const found = HOMES.find(([start]) => path.startsWith(start));
  if (found === undefined || found[1] === here) return `the ${here} listener has no such method`;
  const [start, home] = found;
  const what = start.split("/").filter(Boolean).join("/");
  return `this is the ${here} listener; ${what} is on the ${home} listener`;
}
