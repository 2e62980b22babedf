import { execFileSync } from "node:child_process";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  create,
  createFileRegistry,
  type DescEnum,
  type DescField,
  type DescFile,
  type DescMessage,
  type FileRegistry,
  fromBinary,
  type Message,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DENIED } from "../../src/data-plane/check/authorization.ts";
import { ExtAuthz } from "../../src/data-plane/check/ext-authz.ts";
import { Policies } from "../../src/data-plane/policy.ts";
import { file_envoy_config_core_v3_base } from "../../src/gen/envoy/config/core/v3/base_pb.ts";
import { file_envoy_service_auth_v3_attribute_context } from "../../src/gen/envoy/service/auth/v3/attribute_context_pb.ts";
import {
  Authorization,
  CheckRequestSchema,
  CheckResponseSchema,
  file_envoy_service_auth_v3_external_auth,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { file_envoy_type_v3_http_status } from "../../src/gen/envoy/type/v3/http_status_pb.ts";
import { file_google_rpc_status } from "../../src/gen/google/rpc/status_pb.ts";
import type { Validate, ValidationResult } from "../../src/validation/validate.ts";
import { folder } from "../support/program.ts";
import { readCheck } from "./read-check.ts";

const ROOT = join(import.meta.dirname, "../..");
const UPSTREAM = join(ROOT, "node_modules/@grpc/grpc-js-xds/deps");
const MODULES = ["envoy-api", "googleapis", "xds", "protoc-gen-validate"];

const OURS: readonly DescFile[] = [
  file_envoy_config_core_v3_base,
  file_envoy_service_auth_v3_attribute_context,
  file_envoy_service_auth_v3_external_auth,
  file_envoy_type_v3_http_status,
  file_google_rpc_status,
];

/** The intended differences from upstream, with their reasons. Every other field must be equal. */
const HTTP_STATUS = "envoy.type.v3.HttpStatus.code"; // an int32 here, an enum there: any status, the same on the wire
const PORT_VALUE = "envoy.config.core.v3.SocketAddress.port_value"; // the other one of its oneof, a name, is left out
const ERROR_RESPONSE = "envoy.service.auth.v3.CheckResponse.error_response"; // since 1.37: newer than this snapshot

const place = folder();
let upstream: FileRegistry;
beforeAll(() => {
  for (const module of MODULES) symlinkSync(join(UPSTREAM, module), join(place.path, module));
  const modules = MODULES.map((path) => `  - path: ${path}\n`).join("");
  writeFileSync(join(place.path, "buf.yaml"), `version: v2\nmodules:\n${modules}`);
  const file = join(place.path, "envoy-api/envoy/service/auth/v3/external_auth.proto");
  const built = execFileSync(
    join(ROOT, "node_modules/.bin/buf"),
    ["build", place.path, "--path", file, "--exclude-source-info", "--as-file-descriptor-set", "-o", "-"],
    { env: { PATH: process.env["PATH"], HOME: place.path }, maxBuffer: 16 * 1024 * 1024 },
  );
  upstream = createFileRegistry(fromBinary(FileDescriptorSetSchema, built));
});
afterAll(() => place.remove());

const messages = (of: {
  readonly messages?: readonly DescMessage[];
  readonly nestedMessages?: readonly DescMessage[];
}): DescMessage[] =>
  [...(of.messages ?? of.nestedMessages ?? [])].flatMap((message) => [message, ...messages(message)]);
const OUR_MESSAGES = OURS.flatMap(messages);
const OUR_ENUMS: readonly DescEnum[] = [
  ...OURS.flatMap(({ enums }) => enums),
  ...OUR_MESSAGES.flatMap(({ nestedEnums }) => nestedEnums),
];
const OUR_FIELDS = OUR_MESSAGES.flatMap(({ fields }) => fields).map((field) => [nameOf(field), field] as const);

function nameOf(field: DescField): string {
  return `${field.parent.typeName}.${field.name}`;
}

/** Everything about a field that the wire or a reader can show. */
function shapeOf(field: DescField) {
  const of = (kind: {
    scalar?: ScalarType | undefined;
    message?: DescMessage | undefined;
    enum?: DescEnum | undefined;
  }) => kind.message?.typeName ?? kind.enum?.typeName ?? ScalarType[kind.scalar!];
  const one = field.fieldKind === "map" ? `map<${ScalarType[field.mapKey]}, ${of(field)}>` : of(field);
  return {
    name: field.name,
    number: field.number,
    type: one,
    repeated: field.fieldKind === "list",
    packed: field.fieldKind === "list" && field.packed,
    presence: field.presence,
    oneof: field.oneof?.name,
  };
}

describe("the vendored subset of Envoy's API", () => {
  test.each(OUR_FIELDS)("%s is equal to upstream", (name, field) => {
    const message = upstream.getMessage(field.parent.typeName);
    expect(message, field.parent.typeName).toBeDefined();
    const there = message!.fields.find(({ number }) => number === field.number);
    if (name === ERROR_RESPONSE) {
      expect(there).toBeUndefined();
      expect(message!.fields.some((other) => other.name === field.name)).toBe(false);
      expect(shapeOf(field)).toMatchObject({
        number: 5,
        type: "envoy.service.auth.v3.DeniedHttpResponse",
        oneof: "http_response",
      });
      return;
    }
    const [here, upthere] = [shapeOf(field), shapeOf(there!)];
    if (name === HTTP_STATUS) {
      expect([here.type, upthere.type]).toEqual(["INT32", "envoy.type.v3.StatusCode"]);
      upthere.type = here.type;
    }
    if (name === PORT_VALUE) {
      expect([here.oneof, upthere.oneof]).toEqual([undefined, "port_specifier"]);
      Object.assign(upthere, { oneof: here.oneof, presence: here.presence });
    }
    expect(here).toEqual(upthere);
  });

  test("an omitted field has a number that nothing here uses", () => {
    for (const message of OUR_MESSAGES) {
      const numbers = new Map(message.fields.map(({ number, name }) => [number, name]));
      for (const { number, name } of upstream.getMessage(message.typeName)!.fields)
        expect([undefined, name], `${message.typeName} ${number}`).toContain(numbers.get(number));
    }
  });

  test.each(OUR_ENUMS.map((ours) => [ours.typeName, ours] as const))("%s has the same values", (name, ours) => {
    const values = (of: DescEnum) => of.values.map((value) => [value.name, value.number]);
    expect(values(ours)).toEqual(values(upstream.getEnum(name)!));
  });

  test("the method has the same path, messages and kind", () => {
    const facts = ({
      typeName,
      methods,
    }: typeof Authorization | NonNullable<ReturnType<FileRegistry["getService"]>>) => [
      typeName,
      ...methods.map(({ name, methodKind, input, output }) => [name, methodKind, input.typeName, output.typeName]),
    ];
    expect(facts(Authorization)).toEqual(facts(upstream.getService(Authorization.typeName)!));
  });

  test("every status that we send is one of upstream's", () => {
    const known = new Set(upstream.getEnum("envoy.type.v3.StatusCode")!.values.map(({ number }) => number));
    for (const status of [200, 401, 429, ...Object.values(DENIED).map((denied) => denied.status)])
      expect(known).toContain(status);
  });
});

describe("octets of the wire", () => {
  const theirs = (schema: DescMessage): DescMessage => upstream.getMessage(schema.typeName)!;
  const asking = {
    attributes: {
      source: {
        address: {
          address: {
            case: "socketAddress",
            value: { address: "203.0.113.9", portSpecifier: { case: "portValue", value: 4711 } },
          },
        },
        service: "web",
        principal: "spiffe://td/web",
      },
      request: {
        time: { seconds: 1n, nanos: 2 },
        http: {
          id: "1",
          method: "OPTIONS",
          path: "/a?b=c",
          host: "a.example",
          size: -1n,
          headerMap: {
            headers: [
              { key: "authorization", rawValue: Buffer.from("Bearer \xe9", "latin1") },
              { key: "origin", value: "https://a.example" },
            ],
          },
        },
      },
      contextExtensions: { policy: "api", realm: "r" },
    },
  };

  test("the scanner and the decoder read every part of a CheckRequest that the full API wrote", () => {
    const full = theirs(CheckRequestSchema);
    const octets = toBinary(full, create(full, asking as never) as Message);
    const facts = readCheck(octets);
    expect(facts).toEqual({
      http: true,
      method: "OPTIONS",
      peer: "203.0.113.9",
      extensions: new Map([
        ["policy", "api"],
        ["realm", "r"],
      ]),
      headers: new Map([
        ["authorization", ["Bearer \xe9"]],
        ["origin", ["https://a.example"]],
      ]),
      target: { method: "OPTIONS", host: "a.example", path: "/a?b=c", workload: "spiffe://td/web" },
    });
    // The decoder knows every field of it, and loses none.
    expect(toBinary(CheckRequestSchema, fromBinary(CheckRequestSchema, octets))).toEqual(octets);
  });

  const answers: readonly (readonly [string, Partial<ValidationResult>, string])[] = [
    ["ALLOW", { verdict: "ALLOW" }, "okResponse"],
    ["INVALID_TOKEN", { verdict: "INVALID_TOKEN" }, "deniedResponse"],
    ["UNDETERMINED", { verdict: "UNDETERMINED" }, "deniedResponse"],
  ];
  test.each(answers)("the full API reads a CheckResponse for %s as it was meant", async (_name, answer, kind) => {
    const validate: Validate = () => ({ tier: "none", ...answer }) as ValidationResult;
    const http = { headers: { authorization: "Bearer x" } };
    const question = toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes: { request: { http } } }));
    const { bytes } = await new ExtAuthz(validate, new Policies({})).check(question, true, 0);
    const full = theirs(CheckResponseSchema);
    const read = fromBinary(full, bytes) as Message & {
      httpResponse: { case: string; value: { status?: { code: number }; $unknown?: unknown[] } };
    };
    expect(read.httpResponse.case).toBe(kind);
    expect(read.httpResponse.value.$unknown ?? []).toEqual([]);
    if (kind === "deniedResponse")
      expect(read.httpResponse.value.status?.code).toBe(answer.verdict === "UNDETERMINED" ? 503 : 401);
    expect(toBinary(full, read)).toEqual(bytes);
  });

  test("an older Envoy reads an error_response as a denial without a body, never as an allow", () => {
    const bytes = toBinary(
      CheckResponseSchema,
      create(CheckResponseSchema, {
        status: { code: 14 },
        httpResponse: { case: "errorResponse", value: { body: "x" } },
      }),
    );
    const read = fromBinary(theirs(CheckResponseSchema), bytes) as Message & {
      status: { code: number };
      httpResponse: { case?: string };
    };
    expect([read.status.code, read.httpResponse.case]).toEqual([14, undefined]);
  });
});
