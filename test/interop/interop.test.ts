import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fetchProgram } from "../../scripts/fetch.ts";
import {
  ValidateTokenRequestSchema,
  ValidateTokenResponseSchema,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { TestSallyport } from "../support/sallyport.ts";

/*
 * Stock clients against the real program, on every listener: each makes a token, has it judged, revokes it, and is told so.
 */
const ROOT = join(import.meta.dirname, "../..");
const exec = promisify(execFile);
let sallyport: TestSallyport;
const target = (listener: "data" | "admin" | "ops") => new URL(sallyport.listeners[listener]).host;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
});
afterAll(() => sallyport?.stop());

const CREATE = { profile: "pat", principal: "user:ann", displayName: "interop", scopes: ["repo:*"], ttl: "3600s" };

/** What any of the calls is answered, in JSON. */
interface Answer {
  readonly tokenString: string;
  readonly token: { readonly id: string; readonly hint: string; readonly state: string };
  readonly tokens: readonly unknown[];
  readonly responses: readonly { readonly verdict: string }[];
}

/** A client that calls an RPC with JSON and gives the answer as JSON, or its error text. */
interface Stock {
  readonly name: string;
  call(listener: "data" | "admin", method: string, body: object, bearer?: string): Promise<Answer>;
  /** What a call with a bad bearer is told. */
  refused(method: string): Promise<string>;
}

const failed = async (call: Promise<unknown>) =>
  call.then(
    () => "OK",
    (error: { stdout?: string; stderr?: string; message: string }) =>
      `${error.stdout ?? ""}${error.stderr ?? ""}${error.message}`,
  );

const curl = (flags: string[]): Omit<Stock, "name"> => {
  const ask = async (listener: "data" | "admin", method: string, body: object, bearer?: string) => {
    const { stdout } = await exec("curl", [
      "-sS",
      ...flags,
      `http://${target(listener)}/sallyport.v1.${method}`,
      "-H",
      "content-type: application/json",
      ...(bearer ? ["-H", `authorization: Bearer ${bearer}`] : []),
      "-d",
      JSON.stringify(body),
    ]);
    return JSON.parse(stdout);
  };
  return { call: ask, refused: async (method) => JSON.stringify(await ask("admin", method, {}, "nonsense")) };
};

const bufCurl = (protocol: string, flags: string[]): Omit<Stock, "name"> => {
  const ask = async (listener: "data" | "admin", method: string, body: object, bearer?: string) => {
    const { stdout } = await exec(
      join(ROOT, "node_modules/.bin/buf"),
      [
        "curl",
        "--schema",
        "proto/sallyport.binpb",
        "--protocol",
        protocol,
        ...flags,
        ...(bearer ? ["-H", `authorization: Bearer ${bearer}`] : []),
        "-d",
        JSON.stringify(body),
        `http://${target(listener)}/sallyport.v1.${method}`,
      ],
      { cwd: ROOT },
    );
    return JSON.parse(stdout);
  };
  return { call: ask, refused: (method) => failed(ask("admin", method, {}, "nonsense")) };
};

const grpcurl = (path: string): Omit<Stock, "name"> => {
  const ask = async (listener: "data" | "admin", method: string, body: object, bearer?: string) => {
    // The admin listener shows its schema; the data listener does not.
    const schema = listener === "data" ? ["-protoset", join(ROOT, "proto/sallyport.binpb")] : [];
    const { stdout } = await exec(path, [
      "-plaintext",
      ...schema,
      ...(bearer ? ["-H", `authorization: Bearer ${bearer}`] : []),
      "-d",
      JSON.stringify(body),
      target(listener),
      `sallyport.v1.${method}`,
    ]);
    return JSON.parse(stdout);
  };
  return { call: ask, refused: (method) => failed(ask("admin", method, {}, "nonsense")) };
};

const STOCK: readonly [string, () => Promise<Omit<Stock, "name">>][] = [
  ["curl over HTTP/1.1", async () => curl(["--http1.1"])],
  ["curl over HTTP/2 with prior knowledge", async () => curl(["--http2-prior-knowledge"])],
  ["buf curl with Connect", async () => bufCurl("connect", [])],
  ["buf curl with Connect over HTTP/2", async () => bufCurl("connect", ["--http2-prior-knowledge"])],
  ["buf curl with gRPC", async () => bufCurl("grpc", ["--http2-prior-knowledge"])],
  ["grpcurl", async () => grpcurl(await fetchProgram("grpcurl"))],
];

describe.each(STOCK)("%s", (_, prepare) => {
  test("creates a token, validates it, lists it, revokes it, sees it refused, and reads the reason of an error", async () => {
    const client = await prepare();
    const admin = sallyport.adminToken;
    const made = await client.call("admin", "TokenAdmin/CreateToken", CREATE, admin);
    expect(made.tokenString).toMatch(/^sp_pat_1/);
    const validate = (more: object = {}) =>
      client.call("data", "TokenValidator/ValidateToken", { tokenString: made.tokenString, ...more });
    expect(await validate({ requiredScopes: ["repo:read"] })).toMatchObject({
      verdict: "VERDICT_ALLOW",
      token: { id: made.token.id, scopes: ["repo:*"] },
    });
    expect(await validate({ requiredScopes: ["deploy"] })).toMatchObject({
      verdict: "VERDICT_INSUFFICIENT_SCOPE",
      missingScopes: ["deploy"],
    });
    const listed = await client.call("admin", "TokenAdmin/ListTokens", { hint: made.token.hint }, admin);
    expect(listed.tokens).toMatchObject([{ id: made.token.id, state: "TOKEN_STATE_ACTIVE" }]);
    const revoked = await client.call("admin", "TokenAdmin/RevokeToken", { id: made.token.id }, admin);
    expect(revoked.token.state).toBe("TOKEN_STATE_REVOKED");
    expect(await validate()).toEqual({ verdict: "VERDICT_INVALID_TOKEN" });
    const batch = await client.call("data", "TokenValidator/BatchValidateTokens", {
      requests: [{ tokenString: "x" }, { tokenString: admin }],
    });
    expect(batch.responses.map(({ verdict }) => verdict)).toEqual(["VERDICT_INVALID_TOKEN", "VERDICT_ALLOW"]);
    expect(await client.refused("TokenAdmin/ListTokens")).toMatch(/unauthenticated/i);
  });
});

describe("grpcurl", () => {
  test("lists and describes the services of the admin listener without a credential; the data listener has no reflection", async () => {
    const path = await fetchProgram("grpcurl");
    const { stdout } = await exec(path, ["-plaintext", target("admin"), "list"]);
    expect(stdout.trim().split("\n")).toEqual([
      "grpc.health.v1.Health",
      "grpc.reflection.v1.ServerReflection",
      "grpc.reflection.v1alpha.ServerReflection",
      "sallyport.v1.AuditLog",
      "sallyport.v1.FederationAdmin",
      "sallyport.v1.PrincipalAdmin",
      "sallyport.v1.RoleAdmin",
      "sallyport.v1.ServerInfo",
      "sallyport.v1.TenantAdmin",
      "sallyport.v1.TokenAdmin",
    ]);
    const described = await exec(path, ["-plaintext", target("admin"), "describe", "sallyport.v1.CreateTokenRequest"]);
    expect(described.stdout).toContain("oneof lifetime");
    expect(await failed(exec(path, ["-plaintext", target("data"), "list"]))).toMatch(/reflection|unimplemented/i);
  });

  test("asks every listener for its health", async () => {
    const path = await fetchProgram("grpcurl");
    for (const listener of ["data", "admin", "ops"] as const) {
      const { stdout } = await exec(path, [
        "-plaintext",
        "-import-path",
        join(ROOT, "proto"),
        "-proto",
        "grpc/health/v1/health.proto",
        target(listener),
        "grpc.health.v1.Health/Check",
      ]);
      expect(JSON.parse(stdout), listener).toEqual({ status: "SERVING" });
    }
  });

  test("asks the admin and the ops listener for their health by reflection, and reads the details of an error", async () => {
    const path = await fetchProgram("grpcurl");
    for (const listener of ["admin", "ops"] as const) {
      const { stdout } = await exec(path, ["-plaintext", target(listener), "grpc.health.v1.Health/Check"]);
      expect(JSON.parse(stdout), listener).toEqual({ status: "SERVING" });
    }
    const text = await failed(
      exec(path, [
        "-plaintext",
        "-H",
        `authorization: Bearer ${sallyport.adminToken}`,
        "-d",
        JSON.stringify({ ...CREATE, ttl: "0s" }),
        target("admin"),
        "sallyport.v1.TokenAdmin/CreateToken",
      ]),
    );
    expect(text).toContain('"reason": "INVALID_FIELD"');
  });

  test("gets UNIMPLEMENTED for a method that no listener has, and the right listener for a method of another one", async () => {
    const path = await fetchProgram("grpcurl");
    const call = (listener: "data" | "admin" | "ops") =>
      failed(
        exec(path, [
          "-plaintext",
          "-protoset",
          join(ROOT, "proto/sallyport.binpb"),
          target(listener),
          listener === "data" ? "sallyport.v1.AuditLog/ListAuditEvents" : "sallyport.v1.TokenValidator/ValidateToken",
        ]),
      );
    for (const listener of ["data", "admin", "ops"] as const) {
      const said = await call(listener);
      expect(said, listener).toContain("Code: Unimplemented");
      expect(said, listener).toContain(`is on the ${listener === "data" ? "admin" : "data"} listener`);
    }
  });

  test("shows the details of an error: ErrorInfo and the field that is wrong", async () => {
    const path = await fetchProgram("grpcurl");
    const text = await failed(
      exec(path, [
        "-plaintext",
        "-import-path",
        join(ROOT, "proto"),
        "-proto",
        "google/rpc/error_details.proto",
        "-proto",
        "sallyport/v1/token_admin.proto",
        "-H",
        `authorization: Bearer ${sallyport.adminToken}`,
        "-d",
        JSON.stringify({ ...CREATE, ttl: "0s" }),
        target("admin"),
        "sallyport.v1.TokenAdmin/CreateToken",
      ]),
    );
    expect(text).toContain("InvalidArgument");
    expect(text).toContain("INVALID_FIELD");
    expect(text).toContain('"field": "ttl"');
  });
});

describe("grpc-js", () => {
  test("makes 1,000 concurrent validations over one connection, each with its own answer, and reads the code of an error", async () => {
    const client = new Client(target("data"), credentials.createInsecure());
    const path = "/sallyport.v1.TokenValidator/ValidateToken";
    const encode = (tokenString: string) =>
      Buffer.from(toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString })));
    const ask = (tokenString: string) =>
      new Promise<number>((resolve, reject) =>
        client.makeUnaryRequest(
          path,
          encode,
          (bytes: Buffer) => fromBinary(ValidateTokenResponseSchema, bytes),
          tokenString,
          (error, reply) => (error ? reject(error) : resolve(reply!.verdict)),
        ),
      );
    const { tokenString } = await sallyport.createToken();
    const verdicts = await Promise.all(
      Array.from({ length: 1000 }, (_, i) => ask(i % 2 === 0 ? tokenString : `x${i}`)),
    );
    expect(verdicts).toEqual(Array.from({ length: 1000 }, (_, i) => (i % 2 === 0 ? 1 : 2)));
    client.close();

    const admin = new Client(target("admin"), credentials.createInsecure());
    const metadata = new Metadata();
    metadata.set("authorization", "Bearer nonsense");
    const error = await new Promise<ServiceError | null>((resolve) =>
      admin.makeUnaryRequest(
        "/sallyport.v1.TokenAdmin/ListTokens",
        (b: Buffer) => b,
        (b: Buffer) => b,
        Buffer.alloc(0),
        metadata,
        resolve,
      ),
    );
    expect(error).toMatchObject({ code: 16, details: "the credential is not good" });
    expect(error?.metadata.get("www-authenticate")).toEqual(['Bearer realm="sallyport"']);
    expect(error?.metadata.get("grpc-status-details-bin")).toHaveLength(1);
    admin.close();
  });
});

const PYTHON = `
import sys, grpc
target, request, bad = sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3]
same = lambda b: b
with grpc.insecure_channel(target) as channel:
    call = channel.unary_unary('/sallyport.v1.TokenValidator/ValidateToken', request_serializer=same, response_deserializer=same)
    answers = {call(request, timeout=5).hex() for _ in range(200)}
    print(len(answers), answers.pop())
with grpc.insecure_channel(bad) as channel:
    call = channel.unary_unary('/sallyport.v1.TokenAdmin/ListTokens', request_serializer=same, response_deserializer=same)
    try:
        call(b'', timeout=5)
    except grpc.RpcError as e:
        print(e.code().name, e.details())
for target in sys.argv[4:]:
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary('/no.Such/Method', request_serializer=same, response_deserializer=same)
        try:
            call(b'', timeout=5)
        except grpc.RpcError as e:
            print(e.code().name)
`;

describe("grpcio", () => {
  test("validates 200 times over one channel, and gets UNAUTHENTICATED without a credential", async () => {
    const library = await fetchProgram("grpcio");
    const { tokenString, id } = await sallyport.createToken();
    const request = Buffer.from(
      toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString })),
    ).toString("hex");
    const everywhere = (["data", "admin", "ops"] as const).map(target);
    const { stdout } = await exec("python3", ["-c", PYTHON, target("data"), request, target("admin"), ...everywhere], {
      env: { ...process.env, PYTHONPATH: library },
    });
    const [answered, refused, ...unknown] = stdout.trim().split("\n");
    const [distinct, hex] = answered!.split(" ");
    expect(distinct).toBe("1");
    expect(fromBinary(ValidateTokenResponseSchema, Buffer.from(hex!, "hex"))).toMatchObject({
      verdict: 1,
      token: { id },
    });
    expect(unknown).toEqual(["UNIMPLEMENTED", "UNIMPLEMENTED", "UNIMPLEMENTED"]);
    expect(refused).toBe("UNAUTHENTICATED a credential is required: authorization: Bearer …");
  });
});
