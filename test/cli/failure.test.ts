import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { explain, usage } from "../../src/cli/failure.ts";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { apiError } from "./peer.ts";

const situation = { address: "http://127.0.0.1:7401", credential: "the file ./data/admin-token" };
const repeat = "safe to repeat with --request-id 4dd5";

describe("failure", () => {
  it.each([
    [
      apiError(Code.Unauthenticated, "CALLER_UNAUTHENTICATED", "no"),
      1,
      /does not accept the credential of the file \.\/data\/admin-token/,
    ],
    [
      apiError(Code.PermissionDenied, "CALLER_FORBIDDEN", "not allowed", {
        metadata: { permission: "sallyport.admin" },
      }),
      1,
      /^permission denied: not allowed; missing: sallyport\.admin$/,
    ],
    [apiError(Code.NotFound, "TOKEN_NOT_FOUND", "there is no such token"), 1, /^there is no such token$/],
    [
      apiError(Code.InvalidArgument, "INVALID_FIELD", "two fields", {
        violations: [
          { field: "ttl", description: "must be more than 0" },
          { field: "scopes[0]", description: "must not be empty" },
        ],
      }),
      1,
      /^invalid request: ttl: must be more than 0; scopes\[0\]: must not be empty$/,
    ],
    [
      apiError(Code.ResourceExhausted, "LIMIT_EXCEEDED", "100 a day", { retry: 30 }),
      1,
      /^100 a day; try again in 30 s$/,
    ],
    [
      apiError(Code.ResourceExhausted, "OVERLOADED", "too busy", { retry: 1 }),
      69,
      /nothing was changed, try again in 1 s$/,
    ],
    [apiError(Code.Unavailable, "NOT_DONE", "the store is away"), 69, /nothing was changed, try again later$/],
    [apiError(Code.Aborted, "WRITE_CONFLICT", "a conflict", { retry: 1 }), 69, /nothing was changed/],
    [apiError(Code.Aborted, "ETAG_MISMATCH", "the etag does not fit"), 1, /get it again and repeat$/],
    [
      apiError(Code.DeadlineExceeded, "EFFECT_PENDING", "pending", {
        metadata: { effective_by: "2027-01-15T08:00:00Z" },
      }),
      69,
      /made and durable.*in force at 2027-01-15T08:00:00Z at the latest/,
    ],
    [apiError(Code.Internal, "INTERNAL", "internal error"), 70, /internal error/],
    [new ConnectError("HTTP 404", Code.Unimplemented), 69, /right listener\? \(admin 7401, data 7400\)/],
    [broken("DEPTH_ZERO_SELF_SIGNED_CERT"), 69, /not trusted .*--ca-file or SALLYPORT_CA_FILE/],
    [broken("ENOTFOUND"), 69, /^the host of http:\/\/127\.0\.0\.1:7401 is unknown$/],
    [broken("EACCES"), 69, /^this user may not connect/],
    [broken("HPE_INVALID_CONSTANT"), 69, /^no connection to .*HPE_INVALID_CONSTANT/],
    [usage("give one"), 2, /^give one$/],
    [new TypeError("x is not a function"), 70, /^a bug in this program: TypeError: x is not a function$/],
    ["a string", 70, /a string/],
  ])("ends %s with its exit code and a line that helps", (error, exit, line) => {
    const failure = explain(error, situation);
    expect(failure.exit).toBe(exit);
    expect(failure.message).toMatch(line);
    expect(failure.message).not.toContain("\n");
  });

  it("explains how to repeat a change with an unknown outcome, and only a change", () => {
    for (const error of [
      apiError(Code.Unavailable, "OUTCOME_UNKNOWN", "unknown"),
      new ConnectError("the operation timed out", Code.DeadlineExceeded),
      broken("ECONNRESET"),
    ]) {
      expect(explain(error, { ...situation, repeat })).toMatchObject({ exit: 69 });
      expect(explain(error, { ...situation, repeat }).message).toContain(repeat);
      expect(explain(error, situation).message).toMatch(/try again$/);
    }
  });

  it("names the ways to give a credential if there was none", () => {
    const error = apiError(Code.Unauthenticated, "CALLER_UNAUTHENTICATED", "no");
    expect(explain(error, { address: situation.address }).message).toMatch(
      /--token-file, --session-file, SALLYPORT_TOKEN or SALLYPORT_SESSION/,
    );
  });

  it("trusts only reasons of its own domain", () => {
    const foreign = new ConnectError("no", Code.FailedPrecondition, undefined, [
      { desc: ErrorInfoSchema, value: { domain: "example.com", reason: "OUTCOME_UNKNOWN" } },
    ]);
    expect(explain(foreign, situation)).toMatchObject({ exit: 1, message: "no" });
  });
});

/** A broken connection, as connect-node reports it: Node's error is the cause. */
function broken(code: string): ConnectError {
  const cause = Object.assign(new Error(code), { code });
  return Object.assign(new ConnectError(code, Code.Internal), { cause });
}
