import { ConnectError, type Interceptor } from "@connectrpc/connect";
import type { Clock } from "../domain/clock.ts";
import type { CallLine } from "../telemetry/events.ts";
import { callKey } from "./call.ts";
import type { DenialAudit } from "./denial-audit.ts";
import { asAppError, from, levelOf, statusName, toConnectError } from "./errors.ts";

export interface CallLogDeps {
  readonly clock: Clock;
  readonly called: (line: CallLine) => void;
  readonly denials: DenialAudit;
  /** The level of calls that went well: `debug` on a hot listener. */
  readonly okLevel: "debug" | "info";
}

/** Times every call, logs it, and makes whatever was thrown into the error that the caller is sent. */
export function callLog(deps: CallLogDeps): Interceptor {
  return (next) => async (req) => {
    const started = deps.clock.mono();
    const call = req.contextValues.get(callKey);
    const method = `${req.service.typeName}/${req.method.name}`;
    const line = { requestId: call?.requestId ?? "", method, actor: call?.access?.caller.provenance };
    try {
      const response = await next(req);
      if (call !== undefined) response.header.set("x-request-id", call.requestId);
      deps.called({ ...line, code: "OK", seconds: (deps.clock.mono() - started) / 1000, level: deps.okLevel });
      return response;
    } catch (thrown) {
      const seconds = (deps.clock.mono() - started) / 1000;
      if (thrown instanceof ConnectError) {
        deps.called({ ...line, code: statusName(thrown), seconds, level: "info" });
        throw thrown;
      }
      const error = asAppError(thrown);
      if (error.reason === "RIGHTS_EXCEEDED" || error.reason === "CALLER_FORBIDDEN") {
        deps.denials.record(call?.access, method, error.reason);
      }
      const wire = toConnectError(error, call?.requestId);
      const { reason, cause } = error;
      const facts = { code: statusName(wire), reason, level: levelOf(reason), cause };
      deps.called({ ...line, ...facts, ...from(reason, call?.access?.caller.address), seconds });
      throw wire;
    }
  };
}
