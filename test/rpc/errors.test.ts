import { fromBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { AppError, invalidField, type Reason } from "../../src/domain/errors.ts";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  QuotaFailureSchema,
  RetryInfoSchema,
} from "../../src/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";
import { asAppError, encodedError, errorTable, levelOf, statusName, toConnectError } from "../../src/rpc/errors.ts";

/** The table of the contract: reason, code, log level. */
const TABLE: readonly [Reason, Code, string][] = [
  ["INVALID_FIELD", Code.InvalidArgument, "info"],
  ["INVALID_PAGE_TOKEN", Code.InvalidArgument, "info"],
  ["UNDECODABLE", Code.InvalidArgument, "info"],
  ["CALLER_UNAUTHENTICATED", Code.Unauthenticated, "info"],
  ["CALLER_FORBIDDEN", Code.PermissionDenied, "warn"],
  ["RIGHTS_EXCEEDED", Code.PermissionDenied, "warn"],
  ["TOKEN_NOT_FOUND", Code.NotFound, "info"],
  ["PRINCIPAL_NOT_FOUND", Code.NotFound, "info"],
  ["TENANT_NOT_FOUND", Code.NotFound, "info"],
  ["PRINCIPAL_EXISTS", Code.AlreadyExists, "info"],
  ["TENANT_EXISTS", Code.AlreadyExists, "info"],
  ["REQUEST_ID_REUSED", Code.AlreadyExists, "info"],
  ["TOKEN_REVOKED", Code.FailedPrecondition, "info"],
  ["TENANT_SUSPENDED", Code.FailedPrecondition, "info"],
  ["ETAG_MISMATCH", Code.Aborted, "info"],
  ["WRITE_CONFLICT", Code.Aborted, "info"],
  ["LIMIT_EXCEEDED", Code.ResourceExhausted, "info"],
  ["NOT_DONE", Code.Unavailable, "error"],
  ["STORE_UNAVAILABLE", Code.Unavailable, "error"],
  ["OUTCOME_UNKNOWN", Code.Unavailable, "error"],
  ["DEADLINE", Code.DeadlineExceeded, "warn"],
  ["EFFECT_PENDING", Code.DeadlineExceeded, "info"],
  ["INTERNAL", Code.Internal, "error"],
];

describe("an error on the wire", () => {
  test.each(TABLE)("%s has its code and level, and one ErrorInfo of the domain", (reason, code, level) => {
    const wire = toConnectError(new AppError(reason, "text", { metadata: { a: "b" } }), "req-1");
    expect(wire.code).toBe(code);
    expect(levelOf(reason)).toBe(level);
    expect(wire.findDetails(ErrorInfoSchema)).toMatchObject([
      { reason, domain: "sallyport", metadata: { a: "b", request_id: "req-1" } },
    ]);
    expect(wire.metadata.get("x-request-id")).toBe("req-1");
  });

  test("every reason has a code that no client mistakes for success", () => {
    expect(errorTable().length).toBeGreaterThanOrEqual(TABLE.length);
    for (const { code } of errorTable()) expect(code).toBeGreaterThan(0);
  });

  test("a wrong field is named with its bound", () => {
    const wire = toConnectError(invalidField("ttl", "must be more than 0s"));
    expect(wire.rawMessage).toBe("ttl must be more than 0s");
    expect(wire.findDetails(BadRequestSchema)).toMatchObject([
      { fieldViolations: [{ field: "ttl", description: "must be more than 0s" }] },
    ]);
  });

  test.each([
    [0, 0n, 0],
    [1, 0n, 1_000_000],
    [999.2, 1n, 0],
    [1500, 1n, 500_000_000],
    [-5, 0n, 0],
  ])("a wait of %d ms is sent as RetryInfo", (ms, seconds, nanos) => {
    const wire = toConnectError(new AppError("NOT_DONE", "x", { retryAfterMs: ms }));
    expect(wire.findDetails(RetryInfoSchema)).toMatchObject([{ retryDelay: { seconds, nanos } }]);
  });

  test("RetryInfo is sent only for a reason that a repeat can help", () => {
    const sent = errorTable().filter(({ reason }) => {
      const wire = toConnectError(new AppError(reason, "x", { retryAfterMs: 1 }));
      return wire.findDetails(RetryInfoSchema).length > 0;
    });
    expect(sent.length).toBeGreaterThan(5);
    expect(sent).toEqual(errorTable().filter(({ retry }) => retry !== "no"));
  });

  test("only a limit has QuotaFailure, and only a missing credential has a challenge", () => {
    expect(toConnectError(new AppError("LIMIT_EXCEEDED", "at most 3")).findDetails(QuotaFailureSchema)).toMatchObject([
      { violations: [{ description: "at most 3" }] },
    ]);
    expect(toConnectError(new AppError("CALLER_UNAUTHENTICATED", "x")).metadata.get("www-authenticate")).toBe(
      'Bearer realm="sallyport"',
    );
    const other = toConnectError(new AppError("TOKEN_NOT_FOUND", "x"));
    expect([other.metadata.get("www-authenticate"), other.findDetails(QuotaFailureSchema)]).toEqual([null, []]);
  });

  test("a foreign error is INTERNAL with a fixed text: nothing of it is sent", () => {
    const cause = Object.assign(new Error("relation tokens does not exist"), { detail: "secret row", code: "42P01" });
    for (const thrown of [cause, new TypeError("x of undefined"), "a string", undefined, null, { secret: 1 }]) {
      const wire = toConnectError(thrown);
      expect([wire.code, wire.rawMessage]).toEqual([Code.Internal, "internal error"]);
      expect(
        JSON.stringify(encodedError(wire).details.map(({ value }) => Buffer.from(value).toString("latin1"))),
      ).not.toMatch(/secret|relation|undefined/);
    }
    expect(asAppError(cause).cause).toBe(cause);
    expect(toConnectError(new AppError("INTERNAL", "a text with a secret")).rawMessage).toBe("internal error");
  });

  test("a cause is never sent", () => {
    const wire = toConnectError(new AppError("STORE_UNAVAILABLE", "away", { cause: new Error("password=hunter2") }));
    expect(Buffer.from(encodedError(wire).status).toString("latin1")).not.toContain("hunter2");
  });

  test("the encoded status holds code, message and details", () => {
    const { status, details } = encodedError(toConnectError(invalidField("ttl", "x"), "r"));
    const decoded = fromBinary(StatusSchema, status);
    expect([decoded.code, decoded.message]).toEqual([3, "ttl x"]);
    expect(decoded.details.map(({ typeUrl }) => typeUrl)).toEqual(
      details.map(({ type }) => `type.googleapis.com/${type}`),
    );
  });

  test("an error that already has the form of the wire stays as it is", () => {
    const wire = new ConnectError("x", Code.Aborted);
    expect(toConnectError(wire)).toBe(wire);
  });
});

test("logs and metrics use gRPC's names of the statuses", () => {
  const codes = Object.values(Code).filter((code) => typeof code === "number");
  const snake = (name: string) => name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
  const wanted = codes.map((code) => (code === Code.Canceled ? "CANCELLED" : snake(Code[code])));
  expect(codes.map((code) => statusName(new ConnectError("", code)))).toEqual(wanted);
});
