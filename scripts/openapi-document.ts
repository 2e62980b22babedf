import {
  createFileRegistry,
  type DescField,
  type DescMessage,
  type DescMethod,
  type DescService,
  fromBinary,
  getOption,
  hasOption,
  ScalarType,
} from "@bufbuild/protobuf";
import { FileDescriptorSetSchema, MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { type FieldRules, field as fieldRules } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";

type Json = Record<string, unknown>;

const PACKAGE = "sallyport.v1";
/** Protobuf's own JSON forms. */
const WELL_KNOWN: Readonly<Record<string, Json>> = {
  "google.protobuf.Timestamp": { type: "string", format: "date-time" },
  "google.protobuf.Duration": { type: "string", pattern: "^-?[0-9]+(\\.[0-9]{1,9})?s$", examples: ["86400s"] },
  "google.protobuf.FieldMask": { type: "string", examples: ["displayName,scopes"] },
};

/**
 * The OpenAPI 3.1 document of every RPC of the package as Connect serves it with JSON, with the comments of the schema.
 */
export function openApiOf(image: Uint8Array): { paths: Json } & Json {
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, image));
  const services = [...registry].filter(
    (one): one is DescService => one.kind === "service" && one.file.proto.package === PACKAGE,
  );
  const used = new Map<string, DescMessage>();
  const paths: Json = {};
  for (const service of services.sort(byName))
    for (const method of service.methods) paths[`/${service.typeName}/${method.name}`] = pathItem(method, used);
  const schemas: Json = {};
  for (const message of used.values()) schemas[schemaName(message.typeName)] = messageSchema(message, used);
  return {
    openapi: "3.1.0",
    info: {
      title: "Sallyport",
      version: "v1",
      description:
        "The Connect JSON form of sallyport.v1: POST a JSON object to the path of an RPC. Fields are lowerCamelCase; " +
        "unknown fields are refused. TokenValidator is served by the data listener, everything else by the admin listener.",
    },
    tags: services.map((one) => ({
      name: one.name,
      description: commentOf(one.file.proto, [6, indexOf(one.file.services, one)]),
    })),
    security: [{ bearer: [] }],
    paths,
    components: {
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", description: "A token with the permission that the call needs." },
      },
      schemas: {
        ...Object.fromEntries(Object.entries(schemas).sort(([a], [b]) => (a < b ? -1 : 1))),
        Error: errorSchema,
      },
    },
  };
}

function pathItem(method: DescMethod, used: Map<string, DescMessage>): Json {
  const { parent } = method;
  const description = commentOf(parent.file.proto, [
    6,
    indexOf(parent.file.services, parent),
    2,
    indexOf(parent.methods, method),
  ]);
  const operation = {
    tags: [parent.name],
    summary: firstSentence(description),
    description,
    responses: {
      "200": { description: "OK", content: { "application/json": { schema: reference(method.output, used) } } },
      default: {
        description: "An error",
        content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
      },
    },
  };
  const post = {
    ...operation,
    operationId: `${parent.name}_${method.name}`,
    requestBody: { required: true, content: { "application/json": { schema: reference(method.input, used) } } },
  };
  if (method.idempotency !== MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS) return { post };
  const parameters = [
    { name: "connect", in: "query", schema: { const: "v1" } },
    { name: "encoding", in: "query", required: true, schema: { const: "json" } },
    {
      name: "message",
      in: "query",
      required: true,
      description: "The request as JSON.",
      content: { "application/json": { schema: reference(method.input, used) } },
    },
  ];
  return { get: { ...operation, operationId: `${parent.name}_${method.name}_get`, parameters }, post };
}

function messageSchema(message: DescMessage, used: Map<string, DescMessage>): Json {
  const path = pathOf(message);
  const properties: Json = {};
  message.fields.forEach((field, index) => {
    const schema = fieldSchema(field, used);
    const notes = [commentOf(message.file.proto, [...path, 2, index])];
    if (field.oneof) notes.push(`At most one of ${field.oneof.fields.map((one) => one.jsonName).join(", ")}.`);
    const description = notes.filter(Boolean).join("\n");
    properties[field.jsonName] = "$ref" in schema ? { allOf: [schema], description } : { ...schema, description };
  });
  return { type: "object", description: commentOf(message.file.proto, path), properties, additionalProperties: false };
}

function fieldSchema(field: DescField, used: Map<string, DescMessage>): Json {
  const rules = rulesOf(field);
  switch (field.fieldKind) {
    case "scalar":
      return { ...scalarSchema(field.scalar), ...stringBounds(rules) };
    case "enum":
      return enumSchema(field.enum.values);
    case "message":
      return reference(field.message, used);
    case "map": {
      const value =
        field.mapKind === "scalar"
          ? scalarSchema(field.scalar)
          : field.mapKind === "enum"
            ? enumSchema(field.enum.values)
            : reference(field.message, used);
      const max = rules?.type.case === "map" ? rules.type.value.maxPairs : undefined;
      return { type: "object", additionalProperties: value, ...(max ? { maxProperties: Number(max) } : {}) };
    }
    case "list": {
      const items =
        field.listKind === "scalar"
          ? scalarSchema(field.scalar)
          : field.listKind === "enum"
            ? enumSchema(field.enum.values)
            : reference(field.message, used);
      const bounds = rules?.type.case === "repeated" ? rules.type.value : undefined;
      return {
        type: "array",
        items: { ...items, ...stringBounds(bounds?.items) },
        ...(bounds?.minItems ? { minItems: Number(bounds.minItems) } : {}),
        ...(bounds?.maxItems ? { maxItems: Number(bounds.maxItems) } : {}),
      };
    }
  }
}

function scalarSchema(type: ScalarType): Json {
  switch (type) {
    case ScalarType.BOOL:
      return { type: "boolean" };
    case ScalarType.STRING:
      return { type: "string" };
    case ScalarType.BYTES:
      return { type: "string", format: "byte" };
    case ScalarType.INT64:
    case ScalarType.UINT64:
    case ScalarType.SINT64:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return { type: "string", format: "int64" };
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return { type: "number" };
    default:
      return { type: "integer", format: "int32" };
  }
}

function enumSchema(values: readonly { readonly name: string }[]): Json {
  return { type: "string", enum: values.map((value) => value.name) };
}

/** Bounds of strings in characters. JSON Schema has no word for bounds in bytes. */
function stringBounds(rules: FieldRules | undefined): Json {
  if (rules?.type.case !== "string") return {};
  const { minLen, maxLen } = rules.type.value;
  return { ...(minLen ? { minLength: Number(minLen) } : {}), ...(maxLen ? { maxLength: Number(maxLen) } : {}) };
}

function rulesOf(field: DescField): FieldRules | undefined {
  return hasOption(field, fieldRules) ? getOption(field, fieldRules) : undefined;
}

function reference(message: DescMessage, used: Map<string, DescMessage>): Json {
  const known = WELL_KNOWN[message.typeName];
  if (known) return known;
  if (!used.has(message.typeName)) {
    used.set(message.typeName, message);
    for (const field of message.fields) {
      const inner = field.message;
      if (inner) reference(inner, used);
    }
  }
  return { $ref: `#/components/schemas/${schemaName(message.typeName)}` };
}

function schemaName(typeName: string): string {
  return typeName.startsWith(`${PACKAGE}.`) ? typeName.slice(PACKAGE.length + 1) : typeName;
}

type FileProto = DescService["file"]["proto"];

/** The comment at a path of SourceCodeInfo (descriptor.proto), without its indentation. */
function commentOf(file: FileProto, path: readonly number[]): string {
  const key = path.join();
  const place = file.sourceCodeInfo?.location.find((one) => one.path.join() === key);
  return (place?.leadingComments ?? "")
    .split("\n")
    .map((line) => line.trim())
    .join("\n")
    .trim();
}

function pathOf(message: DescMessage): number[] {
  return message.parent
    ? [...pathOf(message.parent), 3, indexOf(message.parent.nestedMessages, message)]
    : [4, indexOf(message.file.messages, message)];
}

function indexOf<T>(list: readonly T[], one: T): number {
  return list.indexOf(one);
}

function firstSentence(text: string): string {
  return /^[\s\S]*?\.(?=\s|$)/.exec(text)?.[0] ?? text;
}

function byName(a: { readonly name: string }, b: { readonly name: string }): number {
  return a.name < b.name ? -1 : 1;
}

const errorSchema: Json = {
  type: "object",
  description: "An error of the Connect protocol.",
  properties: {
    code: { type: "string", description: "The gRPC code in lower case, as `not_found`." },
    message: { type: "string" },
    details: {
      type: "array",
      description: "google.rpc.ErrorInfo with the reason, BadRequest, RetryInfo, QuotaFailure.",
      items: {
        type: "object",
        properties: {
          type: { type: "string" },
          value: { type: "string", format: "byte" },
          debug: { type: "object", additionalProperties: true },
        },
      },
    },
  },
  required: ["code"],
};
