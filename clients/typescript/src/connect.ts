import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { TokenValidator } from "./gen/sallyport/v1/token_validator_pb.ts";
import { NotSent, type Validator } from "./validator.ts";

/**
 * A way to the server by Connect transports. `feed` is a transport with a connection of its own. `cache: "feed"`
 * needs it; without it there is no cache.
 */
export function connectValidator(checks: Transport, feed?: Transport): Validator {
  const validator = createClient(TokenValidator, checks);
  const watcher = feed && createClient(TokenValidator, feed);
  return {
    validate: async (request, timeoutMs) => {
      try {
        return await validator.validateToken(request, { timeoutMs });
      } catch (error) {
        if (ConnectError.from(error).code === Code.Unavailable && refusedConnection(error)) throw new NotSent();
        throw error;
      }
    },
    watch: async (request, timeoutMs, signal) => {
      if (watcher === undefined) throw new Error("connectValidator needs a transport for the feed");
      return watcher.watchChanges(request, { timeoutMs, signal });
    },
    close: () => {},
  };
}

/** True if an error or one of its causes is a connection that was never made. */
function refusedConnection(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (["ECONNREFUSED", "ENOTFOUND", "EHOSTUNREACH"].includes((at as NodeJS.ErrnoException).code ?? "")) return true;
  }
  return false;
}
