import { create, createRegistry, type DescMessage, getOption, isMessage, type Message } from "@bufbuild/protobuf";
import { isReflectMessage, pathToString, type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect";
import { createValidator } from "@bufbuild/protovalidate";
import { field as fieldRules } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { AppError, invalidField } from "../domain/errors.ts";
import { file_sallyport_v1_audit_log } from "../gen/sallyport/v1/audit_log_pb.ts";
import { file_sallyport_v1_principal_admin } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { file_sallyport_v1_tenant_admin } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { CreateTokenRequestSchema, file_sallyport_v1_token_admin } from "../gen/sallyport/v1/token_admin_pb.ts";

/** The most violations in an error. More would not fit into the headers that a client accepts. */
const MAX_VIOLATIONS = 32;

/**
 * Checks a request of the admin listener against the bounds in its `.proto`. A request out of bounds is INVALID_FIELD,
 * with each field and its bound, and without its value. The rules are compiled here, at start.
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
    cutOverfull(input, message);
    const result = validator.validate(input, message);
    if (result.kind === "error") throw result.error;
    if (result.kind === "invalid") {
      const violations = result.violations.slice(0, MAX_VIOLATIONS).map((violation) => ({
        // Without the keys of maps, because those are values of the request.
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

/**
 * Leaves of each list and map one entry more than it may have: enough for its refusal. A request of many thousands would
 * else be checked entry by entry, and hold up everybody for seconds.
 */
function cutOverfull(type: DescMessage, message: Message): void {
  const values = message as unknown as Record<string, unknown>;
  for (const field of type.fields) {
    const value = values[field.localName];
    if (field.fieldKind === "message" && isMessage(value)) cutOverfull(field.message, value);
    if (field.fieldKind !== "list" && field.fieldKind !== "map") continue;
    const rules = getOption(field, fieldRules).type;
    // 0: no bound is given.
    if (rules.case === "repeated" && rules.value.maxItems > 0 && Array.isArray(value)) {
      value.length = Math.min(value.length, Number(rules.value.maxItems) + 1);
    } else if (rules.case === "map" && rules.value.maxPairs > 0) {
      const entries = Object.entries(value as object);
      const most = Number(rules.value.maxPairs) + 1;
      if (entries.length > most) values[field.localName] = Object.fromEntries(entries.slice(0, most));
    }
  }
}

/** The path of the first field that holds a NUL. No text may hold one, and the database cannot even receive it. */
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
