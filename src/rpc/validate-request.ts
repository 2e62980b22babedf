import { create, createRegistry, type DescMessage, type Message } from "@bufbuild/protobuf";
import { isReflectMessage, pathToString, type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import { AppError, invalidField } from "../domain/errors.ts";
import { file_sallyport_v1_audit_log } from "../gen/sallyport/v1/audit_log_pb.ts";
import { file_sallyport_v1_principal_admin } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { file_sallyport_v1_tenant_admin } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { CreateTokenRequestSchema, file_sallyport_v1_token_admin } from "../gen/sallyport/v1/token_admin_pb.ts";

/**
 * Checks a request of the admin listener against the bounds in its `.proto`. One that is out of bounds is INVALID_FIELD, with
 * each field and its bound, and without its value. The rules are compiled here, at start.
 */
export function requestValidator(): (input: DescMessage, message: Message) => void {
  const registry = createRegistry(
    file_sallyport_v1_audit_log,
    file_sallyport_v1_principal_admin,
    file_sallyport_v1_tenant_admin,
    file_sallyport_v1_token_admin,
  );
  const validator = createValidator({ registry });
  validator.validate(CreateTokenRequestSchema, create(CreateTokenRequestSchema));
  return (input, message) => {
    if (input.file.proto.package !== "sallyport.v1") return;
    const result = validator.validate(input, message);
    if (result.kind === "error") throw result.error;
    if (result.kind === "invalid") {
      const violations = result.violations.map((violation) => ({
        // Without keys of maps: those are values of the request.
        field: pathToString(violation.field.filter(({ kind }) => kind !== "map_sub")) || "request",
        description: violation.message,
      }));
      const [first] = violations;
      throw new AppError("INVALID_FIELD", `${first?.field}: ${first?.description}`, { violations });
    }
    const bad = fieldWithNul(reflect(input, message));
    if (bad !== undefined) throw invalidField(bad, "must not hold the character NUL");
  };
}

/** The path of the first field that holds a NUL: no text has one, and the database can not even be asked for it. */
function fieldWithNul(message: ReflectMessage): string | undefined {
  for (const field of message.fields) {
    if (!message.isSet(field)) continue;
    const value: unknown = message.get(field);
    if (isReflectMessage(value)) {
      const inner = fieldWithNul(value);
      if (inner !== undefined) return `${field.name}.${inner}`;
    } else if (hasNul(value, field.fieldKind)) {
      return field.name;
    }
  }
  return undefined;
}

function hasNul(value: unknown, kind: string): boolean {
  if (kind === "list") return [...(value as Iterable<unknown>)].some((item) => hasNul(item, "scalar"));
  if (kind === "map") return [...(value as Iterable<[unknown, unknown]>)].flat().some((item) => hasNul(item, "scalar"));
  return typeof value === "string" && value.includes("\0");
}
