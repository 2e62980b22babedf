import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { create, type DescService, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fetchProgram } from "../../scripts/fetch.ts";
import * as v1 from "../../src/gen/grpc/reflection/v1/reflection_pb.ts";
import * as v1alpha from "../../src/gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { TokenValidator, Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { addReflection } from "../../src/rpc/reflection.ts";
import { type EchoListener, openEchoListener } from "../listen/echo-listener.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const services: DescService[] = [TokenAdmin, TokenValidator];
let listener: EchoListener;
beforeAll(async () => {
  listener = await openEchoListener({
    rpc: {
      routes: (router) => {
        router.service(TokenValidator, {
          validateToken: ({ tokenString }) => ({ verdict: Verdict.ALLOW, reason: tokenString }),
        });
        router.service(TokenAdmin, {});
        addReflection(router, services);
      },
    },
  });
});
afterAll(() => listener.close());

async function ask(request: v1.ServerReflectionRequest["messageRequest"]) {
  const client = createClient(v1.ServerReflection, createGrpcTransport({ baseUrl: listener.url }));
  async function* one() {
    yield create(v1.ServerReflectionRequestSchema, { messageRequest: request });
  }
  for await (const { messageResponse } of client.serverReflectionInfo(one())) return messageResponse;
  throw new Error("no answer");
}

function filesIn(response: Awaited<ReturnType<typeof ask>>): string[] {
  if (response.case !== "fileDescriptorResponse") throw new Error(`answered ${response.case}`);
  return response.value.fileDescriptorProto.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes).name);
}

/** Runs a program to its end while the listener goes on serving. */
function run(program: string, args: string[]): Promise<{ code: number | null; out: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: "/" });
    let out = "";
    child.stdout.on("data", (chunk) => (out += chunk));
    child.stderr.on("data", (chunk) => (out += chunk));
    child.on("error", reject).on("close", (code) => resolve({ code, out }));
  });
}

describe("reflection", () => {
  test("lists the services of the listener and itself", async () => {
    const response = await ask({ case: "listServices", value: "" });
    expect(response.case === "listServicesResponse" && response.value.service.map(({ name }) => name)).toEqual([
      "grpc.health.v1.Health",
      "grpc.reflection.v1.ServerReflection",
      "grpc.reflection.v1alpha.ServerReflection",
      "sallyport.v1.TokenAdmin",
      "sallyport.v1.TokenValidator",
    ]);
  });

  test("sends a file before all files that it imports", async () => {
    const files = filesIn(await ask({ case: "fileByFilename", value: "sallyport/v1/token_admin.proto" }));
    expect(files[0]).toBe("sallyport/v1/token_admin.proto");
    expect(files).toEqual(
      expect.arrayContaining([
        "buf/validate/validate.proto",
        "sallyport/v1/effect.proto",
        "google/protobuf/duration.proto",
      ]),
    );
    expect(new Set(files).size).toBe(files.length);
  });

  test.each([
    "sallyport.v1.TokenAdmin",
    "sallyport.v1.TokenAdmin.CreateToken",
    "sallyport.v1.Token",
    "sallyport.v1.TokenState",
    "sallyport.v1.Token.hint",
  ])("finds %s", async (symbol) => {
    expect(filesIn(await ask({ case: "fileContainingSymbol", value: symbol }))[0]).toBe(
      "sallyport/v1/token_admin.proto",
    );
  });

  test.each([
    ["google.rpc.ErrorInfo", "google/rpc/error_details.proto"],
    ["google.rpc.BadRequest.FieldViolation", "google/rpc/error_details.proto"],
    ["google.rpc.Status", "google/rpc/status.proto"],
    ["grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"],
    ["grpc.reflection.v1alpha.ServerReflectionRequest", "grpc/reflection/v1alpha/reflection.proto"],
  ])("knows %s, which no service names", async (symbol, file) => {
    expect(filesIn(await ask({ case: "fileContainingSymbol", value: symbol }))[0]).toBe(file);
  });

  test("finds extensions by type and number, and lists all numbers of a type", async () => {
    const containingType = "google.protobuf.FieldOptions";
    const response = await ask({ case: "allExtensionNumbersOfType", value: containingType });
    expect(response.case === "allExtensionNumbersResponse" && response.value.extensionNumber).toContain(1159);
    const found = await ask({
      case: "fileContainingExtension",
      value: create(v1.ExtensionRequestSchema, { containingType, extensionNumber: 1159 }),
    });
    expect(filesIn(found)[0]).toBe("buf/validate/validate.proto");
  });

  test("says NOT_FOUND as an answer, not as the end of the stream", async () => {
    for (const request of [
      { case: "fileByFilename", value: "nothing.proto" },
      { case: "fileContainingSymbol", value: "__proto__" },
    ] as const) {
      const response = await ask(request);
      expect(response.case === "errorResponse" && response.value.errorCode).toBe(5);
    }
  });

  test("v1alpha answers alike", async () => {
    const client = createClient(v1alpha.ServerReflection, createGrpcTransport({ baseUrl: listener.url }));
    async function* two() {
      for (const value of ["sallyport.v1.Token", "nothing"])
        yield create(v1alpha.ServerReflectionRequestSchema, {
          host: "h",
          messageRequest: { case: "fileContainingSymbol", value },
        });
    }
    const seen: string[] = [];
    for await (const { messageResponse, originalRequest } of client.serverReflectionInfo(two())) {
      seen.push(`${messageResponse.case} ${originalRequest?.messageRequest.value}`);
    }
    expect(seen).toEqual(["fileDescriptorResponse sallyport.v1.Token", "errorResponse nothing"]);
  });

  test("buf curl lists and calls without a schema", async () => {
    const buf = `${root}node_modules/.bin/buf`;
    const common = ["curl", "--protocol", "grpc", "--http2-prior-knowledge"];
    const listed = await run(buf, [...common, "--list-methods", listener.url]);
    expect(listed).toMatchObject({ code: 0 });
    expect(listed.out).toContain("sallyport.v1.TokenAdmin/RevokeToken");
    for (const protocol of ["v1", "v1alpha"]) {
      const called = await run(buf, [
        ...common,
        "--reflect-protocol",
        `grpc-${protocol}`,
        "-d",
        '{"tokenString":"hi"}',
        `${listener.url}/sallyport.v1.TokenValidator/ValidateToken`,
      ]);
      expect(called).toMatchObject({ code: 0 });
      expect(JSON.parse(called.out)).toEqual({ verdict: "VERDICT_ALLOW", reason: "hi" });
    }
  });

  test("grpcurl lists, describes and calls without a schema", { timeout: 120_000 }, async ({ skip }) => {
    const grpcurl = await fetchProgram("grpcurl").catch((reason: unknown) => skip(`no grpcurl: ${reason}`));
    const address = `127.0.0.1:${listener.port}`;
    expect((await run(grpcurl, ["-plaintext", address, "list"])).out).toContain("sallyport.v1.TokenAdmin");
    expect((await run(grpcurl, ["-plaintext", address, "describe", "sallyport.v1.CreateTokenRequest"])).out).toContain(
      "no_expiry",
    );
    const called = await run(grpcurl, [
      "-plaintext",
      "-d",
      '{"tokenString":"hi"}',
      address,
      "sallyport.v1.TokenValidator/ValidateToken",
    ]);
    expect(JSON.parse(called.out)).toEqual({ verdict: "VERDICT_ALLOW", reason: "hi" });
  });
});
