import {
  create,
  type DescExtension,
  type DescFile,
  type DescMessage,
  type DescService,
  toBinary,
} from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, type ConnectRouter } from "@connectrpc/connect";
import { file_google_rpc_error_details } from "../gen/google/rpc/error_details_pb.ts";
import { file_google_rpc_status } from "../gen/google/rpc/status_pb.ts";
import { Health } from "../gen/grpc/health/v1/health_pb.ts";
import * as v1 from "../gen/grpc/reflection/v1/reflection_pb.ts";
import * as v1alpha from "../gen/grpc/reflection/v1alpha/reflection_pb.ts";

/** The definitions of every name in a set of services, for clients without the schema. */
export interface Schema {
  readonly services: readonly string[];
  readonly files: ReadonlyMap<string, DescFile>;
  /** Full names of services, methods, messages, fields, enums and extensions. */
  readonly symbols: ReadonlyMap<string, DescFile>;
  readonly extensions: readonly DescExtension[];
}

/** Collects the files of the services, all that they import, and some more. */
function schemaOf(services: readonly DescService[], more: readonly DescFile[] = []): Schema {
  const files = new Map<string, DescFile>();
  for (const file of more) closure(file, files);
  for (const { file } of services) closure(file, files);
  const symbols = new Map<string, DescFile>();
  const extensions: DescExtension[] = [];
  for (const file of files.values()) {
    const name = (symbol: string): unknown => symbols.set(symbol, file);
    const message = (desc: DescMessage): void => {
      name(desc.typeName);
      for (const field of desc.fields) name(`${desc.typeName}.${field.name}`);
      for (const nested of desc.nestedMessages) message(nested);
      for (const nested of desc.nestedEnums) name(nested.typeName);
      for (const nested of desc.nestedExtensions) extensions.push(nested);
    };
    for (const desc of file.messages) message(desc);
    for (const desc of file.enums) name(desc.typeName);
    for (const desc of file.extensions) extensions.push(desc);
    for (const desc of file.services) {
      name(desc.typeName);
      for (const method of desc.methods) name(`${desc.typeName}.${method.name}`);
    }
  }
  for (const extension of extensions) symbols.set(extension.typeName, extension.file);
  return { services: services.map((one) => one.typeName).sort(), files, symbols, extensions };
}

/**
 * Adds the server reflection protocol, v1 and v1alpha (some tools know only the older one). It shows these services,
 * health, itself, and the details of errors, which no service names because they travel as Any. Every file comes with
 * everything that it imports, so that one answer is enough.
 */
export function addReflection(router: ConnectRouter, services: readonly DescService[]): void {
  const details = [file_google_rpc_error_details, file_google_rpc_status];
  const schema = schemaOf([...services, Health, v1.ServerReflection, v1alpha.ServerReflection], details);
  router.service(v1.ServerReflection, {
    async *serverReflectionInfo(requests) {
      for await (const request of requests) yield create(v1.ServerReflectionResponseSchema, reply(schema, request));
    },
  });
  router.service(v1alpha.ServerReflection, {
    async *serverReflectionInfo(requests) {
      for await (const request of requests)
        yield create(v1alpha.ServerReflectionResponseSchema, reply(schema, request));
    },
  });
}

type ReflectionRequest = v1.ServerReflectionRequest | v1alpha.ServerReflectionRequest;

function reply(schema: Schema, request: ReflectionRequest) {
  const { messageRequest: asked } = request;
  const answered = { validHost: request.host, originalRequest: { host: request.host, messageRequest: asked } };
  return { ...answered, messageResponse: answer(schema, asked) } as object;
}

function answer(schema: Schema, asked: ReflectionRequest["messageRequest"]): object {
  switch (asked.case) {
    case "listServices":
      return { case: "listServicesResponse", value: { service: schema.services.map((name) => ({ name })) } };
    case "fileByFilename":
      return fileResponse(schema.files.get(asked.value));
    case "fileContainingSymbol":
      return fileResponse(schema.symbols.get(asked.value.replace(/^\./, "")));
    case "fileContainingExtension": {
      const { containingType, extensionNumber } = asked.value;
      const found = schema.extensions.find(
        (one) => one.extendee.typeName === containingType && one.number === extensionNumber,
      );
      return fileResponse(found?.file);
    }
    case "allExtensionNumbersOfType": {
      const baseTypeName = asked.value;
      const numbers = schema.extensions
        .filter((one) => one.extendee.typeName === baseTypeName)
        .map((one) => one.number);
      if (!schema.symbols.has(baseTypeName)) return failure(Code.NotFound, "not found");
      return { case: "allExtensionNumbersResponse", value: { baseTypeName, extensionNumber: numbers } };
    }
    default:
      return failure(Code.InvalidArgument, "unknown kind of request");
  }
}

function fileResponse(file: DescFile | undefined): object {
  if (file === undefined) return failure(Code.NotFound, "not found");
  const files = new Map<string, DescFile>();
  closure(file, files);
  const bytes = [...files.values()].map((one) => toBinary(FileDescriptorProtoSchema, one.proto));
  return { case: "fileDescriptorResponse", value: { fileDescriptorProto: bytes } };
}

function failure(errorCode: Code, errorMessage: string): object {
  return { case: "errorResponse", value: { errorCode, errorMessage } };
}

/** A file and everything that it imports, the file first. */
function closure(file: DescFile, into: Map<string, DescFile>): void {
  if (into.has(file.proto.name)) return;
  into.set(file.proto.name, file);
  for (const dependency of file.dependencies) closure(dependency, into);
}
