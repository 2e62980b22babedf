import type { ServiceImpl } from "@connectrpc/connect";
import type { Validate } from "../app/validate.ts";
import { invalidField } from "../domain/errors.ts";
import type {
  TokenValidator,
  ValidateTokenRequest,
  ValidateTokenResponse,
} from "../gen/sallyport/v1/token_validator_pb.ts";
import type { Clock } from "../ports.ts";
import { callKey } from "./call.ts";
import { validateMessage } from "./convert.ts";

/** The longest that a validation may take, milliseconds; a caller's own deadline can only shorten it. */
const CAP_MS = 2_000;

/** TokenValidator. Every verdict is an OK answer; only a request that breaks a bound is an error. */
export function tokenValidator(deps: {
  readonly validate: Validate;
  readonly clock: Clock;
}): ServiceImpl<typeof TokenValidator> {
  const { validate, clock } = deps;
  const one = (request: ValidateTokenRequest, deadline: number, reasons: boolean, at: string) => {
    checkBounds(request, at);
    const requirement = { scopes: request.requiredScopes, audience: request.audience };
    const context = { clientAddress: request.context?.clientAddress ?? "" };
    const answer = validate(request.tokenString, requirement, context, deadline);
    return answer instanceof Promise
      ? answer.then((decision) => validateMessage(decision, reasons))
      : validateMessage(answer, reasons);
  };
  return {
    validateToken(request, context) {
      const reasons = context.values.get(callKey)?.reasons ?? false;
      const deadline = clock.mono() + Math.min(context.timeoutMs() ?? CAP_MS, CAP_MS);
      return one(request, deadline, reasons, "");
    },

    async batchValidateTokens(request, context) {
      const { requests } = request;
      if (requests.length < 1 || requests.length > 100) throw invalidField("requests", "must have 1 to 100 entries");
      const reasons = context.values.get(callKey)?.reasons ?? false;
      const deadline = clock.mono() + Math.min(context.timeoutMs() ?? CAP_MS, CAP_MS);
      const responses: ValidateTokenResponse[] = await Promise.all(
        requests.map(async (entry, i) => one(entry, deadline, reasons, `requests[${i}].`)),
      );
      return { responses };
    },
  };
}

function checkBounds(request: ValidateTokenRequest, at: string): void {
  if (request.requiredScopes.length > 32) throw invalidField(`${at}required_scopes`, "must have at most 32 entries");
  if (request.audience.length > 256) throw invalidField(`${at}audience`, "must have at most 256 characters");
}
