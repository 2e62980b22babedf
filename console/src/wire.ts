import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { BadRequestSchema, ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.ts";
import { AuditLog } from "../gen/sallyport/v1/audit_log_pb.ts";
import { PrincipalAdmin } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { RoleAdmin } from "../gen/sallyport/v1/role_admin_pb.ts";
import { ServerInfo } from "../gen/sallyport/v1/server_info_pb.ts";
import { TenantAdmin } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "../gen/sallyport/v1/token_admin_pb.ts";

/** A token string, or the session that the browser's cookie names, with the tenant that its calls are for. */
export type Credential = { readonly token: string } | { readonly tenant: string };

/** The credential, in the memory of this page and nowhere else. */
let credential: Credential | undefined;
/** Ends with the session: what was asked in it is neither answered nor repeated in the next one. */
let session = new AbortController();
let onRefused = (): void => {};

/** Of a new session, or the next one of this session. */
export function keepCredential(next: Credential): void {
  credential = next;
}

/** True while single sign-on is the credential. */
export const isSession = () => credential !== undefined && "tenant" in credential;

export function forgetCredential(): void {
  credential = undefined;
  session.abort();
  session = new AbortController();
}

/** Calls `listener` when the server no longer knows the credential. */
export function whenRefused(listener: () => void): void {
  onRefused = listener;
}

/** Beside this header, and only there, the cookie of a session counts. */
const OF_CONSOLE = "x-sallyport-console";

/** Ends the session at the server. False if it is not known to have ended. */
export async function endSession(): Promise<boolean> {
  const request = { method: "POST", headers: { [OF_CONSOLE]: "1" } } as const;
  return fetch("auth/logout", { ...request, credentials: "same-origin", cache: "no-store", redirect: "error" }).then(
    ({ ok }) => ok,
    () => false,
  );
}

const bearing: Interceptor = (next) => async (req) => {
  const sent = credential;
  const { signal } = session;
  // Not AbortSignal.any, which Safari has only since 17.4.
  const either = new AbortController();
  const stop = () => either.abort(req.signal.reason);
  for (const one of [req.signal, signal]) one.addEventListener("abort", stop);
  if (req.signal.aborted) stop();
  if (sent !== undefined && "token" in sent) req.header.set("authorization", `Bearer ${sent.token}`);
  if (sent !== undefined && "tenant" in sent) {
    req.header.set(OF_CONSOLE, "1");
    if (sent.tenant !== "") req.header.set("x-sallyport-tenant", sent.tenant);
  }
  try {
    const answer = await next({ ...req, signal: either.signal });
    signal.throwIfAborted();
    return answer;
  } catch (error) {
    if (sent !== undefined && sent === credential && ConnectError.from(error).code === Code.Unauthenticated)
      onRefused();
    throw error;
  } finally {
    for (const one of [req.signal, signal]) one.removeEventListener("abort", stop);
    req.header.delete("authorization");
  }
};

const transport = createConnectTransport({
  baseUrl: location.origin,
  useBinaryFormat: false,
  useHttpGet: false,
  defaultTimeoutMs: 15_000,
  interceptors: [bearing],
  fetch: (input, init) => {
    const credentials = new Headers(init?.headers).has(OF_CONSOLE) ? "same-origin" : "omit";
    return fetch(input, { ...init, credentials, cache: "no-store", redirect: "error" });
  },
});

export const tokens = createClient(TokenAdmin, transport);
export const principals = createClient(PrincipalAdmin, transport);
export const tenants = createClient(TenantAdmin, transport);
export const roles = createClient(RoleAdmin, transport);
export const audit = createClient(AuditLog, transport);
export const info = createClient(ServerInfo, transport);

export interface Failure {
  readonly title: string;
  readonly text: string;
  readonly reason: string;
  readonly requestId: string;
  /** By the names of the request's fields. */
  readonly fields: ReadonlyMap<string, string>;
  /** The call may have happened. */
  readonly unsure: boolean;
  /** When it is in force, of a change that is durable. */
  readonly effectiveBy: string | undefined;
  /** Of a call that must name one of several tenants. */
  readonly tenants: readonly string[];
}

const TITLES: Readonly<Partial<Record<Code, string>>> = {
  [Code.Unauthenticated]: "You are signed out",
  [Code.PermissionDenied]: "You may not do this",
  [Code.NotFound]: "Not found",
  [Code.InvalidArgument]: "The server did not accept this",
  [Code.ResourceExhausted]: "Too much at once",
  [Code.Unavailable]: "The server does not answer",
  [Code.DeadlineExceeded]: "The server took too long",
  [Code.Unimplemented]: "This server does not know that call",
  [Code.Aborted]: "Somebody changed it meanwhile",
};

/** What an answer means that is not from Sallyport, by its HTTP status: something before it spoke. */
const STRANGE: Readonly<Record<string, readonly [title: string, text: string]>> = {
  403: ["You may not do this", "Something between this page and Sallyport refused the request."],
  429: ["Too much at once", "Wait a little, then try again."],
  502: [
    "The server does not answer",
    "Something between this page and Sallyport cannot reach it. Wait a little, then try again.",
  ],
  503: ["The server does not answer", "It starts, stops or is overloaded. Wait a little, then try again."],
};

/** Turns any error of a call into words. */
export function failureOf(thrown: unknown): Failure {
  const error = ConnectError.from(thrown);
  const [details] = error.findDetails(ErrorInfoSchema);
  const reason = details?.reason ?? "";
  const fields = error
    .findDetails(BadRequestSchema)
    .flatMap(({ fieldViolations }) => fieldViolations.map(({ field, description }) => [field, description] as const));
  const silent = details === undefined;
  const strange = silent ? STRANGE[/^HTTP (\d{3})/.exec(error.rawMessage)?.[1] ?? ""] : undefined;
  const offline = silent && !navigator.onLine;
  const unsure =
    reason === "OUTCOME_UNKNOWN" ||
    error.code === Code.Unavailable ||
    error.code === Code.DeadlineExceeded ||
    (silent && (error.code === Code.Unknown || error.code === Code.Internal || error.code === Code.Canceled));
  const [title, text] = offline
    ? ["You are offline", "The browser has no connection."]
    : (strange ??
      (silent && unsure
        ? ["The server does not answer", "No answer came, or one that is not from Sallyport."]
        : [TITLES[error.code] ?? "Something went wrong", error.rawMessage]));
  return {
    title,
    text,
    reason,
    requestId: details?.metadata["request_id"] ?? "",
    fields: new Map(fields),
    unsure,
    effectiveBy: details?.metadata["effective_by"],
    tenants: details?.metadata["tenants"]?.split(" ") ?? [],
  };
}

/** What the server says about a field, by its name in the protocol: `scopes` has what is said of `role.scopes[0]`. */
export function problemOf(failure: Failure | undefined, name: string): string | undefined {
  return [...(failure?.fields ?? [])].find(([field]) => /(\w+)(\[\w+\])?$/.exec(field)?.[1] === name)?.[1];
}

/** Repeats a call that is safe to repeat after 0.5, 1 and 2 s while it is not known whether it happened. */
export async function surely<T>(call: () => Promise<T>): Promise<T> {
  const { signal } = session;
  for (const pause of [500, 1000, 2000]) {
    try {
      return await call();
    } catch (error) {
      const { unsure, reason } = failureOf(error);
      if (!unsure || reason === "EFFECT_PENDING") throw error;
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (signal.aborted) throw error;
    }
  }
  return call();
}
