import type { HandlerContext } from "@connectrpc/connect";
import type { Caller } from "../domain/caller.ts";
import type { Clock } from "../domain/clock.ts";
import { rankOf } from "../domain/rights.ts";
import type { CallLine } from "../telemetry/events.ts";
import { type AdminCall, callKey, requestIdFrom } from "./call.ts";
import { type Callers, permit, rowOf } from "./caller.ts";
import type { TrustedProxies } from "./client-address.ts";
import type { DenialAudit } from "./denial-audit.ts";
import { asAppError, from, levelOf, statusName, toConnectError } from "./errors.ts";
import { type Peer, peerKey } from "./peer.ts";

export interface AuthenticateDeps {
  readonly clock: Clock;
  readonly called: (line: CallLine) => void;
  readonly proxies: TrustedProxies;
}

type Gate = (context: HandlerContext) => Promise<void>;

/**
 * Before the body of a call to the admin listener is read: who calls, whether the method is open to that caller, and how
 * far the caller reaches. Deny by default.
 */
export function authenticateCalls(
  deps: AuthenticateDeps & { readonly callers: Callers; readonly denials: DenialAudit },
): Gate {
  return gate(deps, async (context, method, requestId, peer) => {
    const row = rowOf(method);
    if (row === "open") return { requestId };
    const authorization = context.requestHeader.get("authorization");
    const caller = await deps.callers.authenticate(peer, authorization, method, requestId);
    const ends = endsSoon(caller, deps.clock.wall());
    if (ends !== undefined) context.responseHeader.set("sallyport-token-ends", ends);
    const left = context.timeoutMs();
    const deadline = left === undefined ? undefined : deps.clock.mono() + left;
    try {
      return { requestId, access: { caller, reach: permit(caller, row), requestId, deadline } };
    } catch (error) {
      deps.denials.record({ caller, reach: "own", requestId }, method, "CALLER_FORBIDDEN");
      throw error;
    }
  });
}

const SOON_MS = 14 * 86_400_000;

/** When an administrator's token ends, in time to make another: it can not prolong itself. */
function endsSoon(caller: Caller, now: number): string | undefined {
  const { expireTime } = caller;
  if (expireTime === undefined || expireTime - now > SOON_MS || rankOf(caller) === "other") return undefined;
  return new Date(expireTime).toISOString();
}

function gate(
  deps: AuthenticateDeps,
  admit: (context: HandlerContext, method: string, requestId: string, peer: Peer) => Promise<AdminCall>,
): Gate {
  return async (context) => {
    const method = `${context.service.typeName}/${context.method.name}`;
    const requestId = requestIdFrom(context.requestHeader.get("x-request-id"));
    const started = deps.clock.mono();
    const peer = deps.proxies.behind(context.values.get(peerKey), context.requestHeader.get("x-forwarded-for"));
    try {
      context.values.set(callKey, await admit(context, method, requestId, peer));
    } catch (thrown) {
      const error = asAppError(thrown);
      const seconds = (deps.clock.mono() - started) / 1000;
      const wire = toConnectError(error, requestId);
      deps.called({
        requestId,
        method,
        code: statusName(wire),
        reason: error.reason,
        ...from(error.reason, peer.address),
        seconds,
        level: levelOf(error.reason),
        cause: error.cause,
      });
      throw wire;
    }
  };
}
