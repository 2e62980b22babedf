import { create, createRegistry, isMessage } from "@bufbuild/protobuf";
import { pathToString } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import type { Interceptor } from "@connectrpc/connect";
import { AppError } from "../domain/errors.ts";
import { file_sallyport_v1_audit_log } from "../gen/sallyport/v1/audit_log_pb.ts";
import { file_sallyport_v1_principal_admin } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { file_sallyport_v1_tenant_admin } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { CreateTokenRequestSchema, file_sallyport_v1_token_admin } from "../gen/sallyport/v1/token_admin_pb.ts";

/**
 * Checks every request of the admin door against the bounds in its `.proto`. A request out of bounds is INVALID_FIELD,
 * with each field and its bound, and without its value. The first check compiles the rules: it is made here, at start.
 */
export function bounds(): Interceptor {
  const registry = createRegistry(
    file_sallyport_v1_audit_log,
    file_sallyport_v1_principal_admin,
    file_sallyport_v1_tenant_admin,
    file_sallyport_v1_token_admin,
  );
  const validator = createValidator({ registry });
  validator.validate(CreateTokenRequestSchema, create(CreateTokenRequestSchema));
  return (next) => async (req) => {
    if (!req.stream && isMessage(req.message) && req.method.input.file.proto.package === "sallyport.v1") {
      const result = validator.validate(req.method.input, req.message);
      if (result.kind === "error") throw result.error;
      if (result.kind === "invalid") {
        const violations = result.violations.map((violation) => ({
          field: pathToString(violation.field) || "request",
          description: violation.message,
        }));
        const [first] = violations;
        throw new AppError("INVALID_FIELD", `${first?.field}: ${first?.description}`, { violations });
      }
    }
    return next(req);
  };
}
