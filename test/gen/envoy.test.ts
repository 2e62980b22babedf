import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createFileRegistry, type DescEnum, type DescField, type DescMessage, fromBinary } from "@bufbuild/protobuf";
import { FieldDescriptorProto_Type, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { afterAll, describe, expect, test } from "vitest";
import { file_envoy_config_core_v3_base } from "../../src/gen/envoy/config/core/v3/base_pb.ts";
import { file_envoy_service_auth_v3_attribute_context } from "../../src/gen/envoy/service/auth/v3/attribute_context_pb.ts";
import {
  Authorization,
  file_envoy_service_auth_v3_external_auth,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { file_envoy_type_v3_http_status } from "../../src/gen/envoy/type/v3/http_status_pb.ts";
import { folder } from "../support/program.ts";

/*
 * Our subset of the Envoy API against all of it, as the gRPC project publishes it: what we have must be the same on the
 * wire.
 */
const ROOT = join(import.meta.dirname, "../..");
const SOURCE = join(ROOT, "node_modules/@grpc/grpc-js-xds/deps");
/** Newer than what is published there (Envoy 1.37); its number is Envoy's. */
const NEWER = { "envoy.service.auth.v3.CheckResponse": { error_response: 5 } } as Record<
  string,
  Record<string, number>
>;

const place = folder();
afterAll(() => place.remove());

function published() {
  const modules = ["envoy-api", "googleapis", "protoc-gen-validate", "xds"];
  for (const name of modules) {
    const from = (path: string) =>
      path === join(SOURCE, name) || !/\/(tests|java)(\/|$)/.test(path.slice(SOURCE.length));
    cpSync(join(SOURCE, name), join(place.path, name), { recursive: true, filter: from });
  }
  const list = modules.map((name) => `  - path: ${name}\n`).join("");
  writeFileSync(join(place.path, "buf.yaml"), `version: v2\nmodules:\n${list}`);
  const paths = ["--path", "envoy-api/envoy/service/auth/v3"];
  execFileSync(join(ROOT, "node_modules/.bin/buf"), ["build", "-o", "image.binpb", ...paths], { cwd: place.path });
  return createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(join(place.path, "image.binpb"))));
}

/** An enum is an int32 on the wire, and a oneof is not there at all. */
function wire(field: DescField) {
  const { type, label, typeName } = field.proto;
  const isEnum = type === FieldDescriptorProto_Type.ENUM;
  const packed = field.fieldKind === "list" && "packed" in field ? field.packed : undefined;
  const shape = { number: field.number, label, packed };
  return isEnum ? { ...shape, type: FieldDescriptorProto_Type.INT32, typeName: "" } : { ...shape, type, typeName };
}

const FILES = [
  file_envoy_config_core_v3_base,
  file_envoy_service_auth_v3_attribute_context,
  file_envoy_service_auth_v3_external_auth,
  file_envoy_type_v3_http_status,
];
const below = (message: DescMessage): DescMessage[] => [message, ...message.nestedMessages.flatMap(below)];
const messages = FILES.flatMap((file) => file.messages.flatMap(below));
const enums: DescEnum[] = [
  ...FILES.flatMap((file) => file.enums),
  ...messages.flatMap((message) => message.nestedEnums),
];

describe("our subset of the Envoy API", () => {
  const all = published();

  test.each(messages.map((message) => [message.typeName, message] as const))(
    "%s is the same on the wire",
    (name, ours) => {
      const theirs = all.getMessage(name);
      expect(theirs).toBeDefined();
      for (const field of ours.fields) {
        const newer = NEWER[name]?.[field.name];
        if (newer !== undefined) expect(field.number).toBe(newer);
        else
          expect({ [field.name]: wire(field) }).toEqual({
            [field.name]: wire(theirs!.fields.find((of) => of.name === field.name)!),
          });
      }
    },
  );

  test("values of enums have their numbers", () => {
    expect(enums.length).toBeGreaterThan(0);
    for (const ours of enums) {
      const numbers = (of: DescEnum) => new Map(of.values.map(({ name, number }) => [name, number]));
      const theirs = numbers(all.getEnum(ours.typeName)!);
      for (const [name, number] of numbers(ours)) expect([name, theirs.get(name)]).toEqual([name, number]);
    }
  });

  test("the RPC has Envoy's path and messages", () => {
    const theirs = all
      .getService(Authorization.typeName)!
      .methods.map(({ name, input, output }) => [name, input.typeName, output.typeName]);
    expect(Authorization.methods.map(({ name, input, output }) => [name, input.typeName, output.typeName])).toEqual(
      theirs,
    );
  });
});
