import { describe, expect, it } from "vitest";
import type { CreateTokenRequest, RotateTokenRequest } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { apiError, Code } from "./peer.ts";
import { against, effect, IN_FORCE, STRING, token } from "./token-peer.ts";

describe("tokens create", () => {
  const flags = ["tokens", "create", "--profile", "pat", "--principal", "user:ann"];

  it("sends the values of the flags, and its own request id", async () => {
    let sent: CreateTokenRequest | undefined;
    const all = [
      ...["--tenant", "acme", "--display-name", "laptop", "--description", "mine", "--scope", "a", "--scope", "b"],
      ...["--audience", "https://x", "--allowed-cidr", "10.0.0.0/8", "--annotation", "k=v=w", "--annotation", "l="],
      ...["--ttl", "90d", "--not-before", "2027-01-15T08:00:00Z"],
    ];
    const createToken = (request: CreateTokenRequest) => {
      sent = request;
      return { token, tokenString: STRING };
    };
    const { exit, headers } = await against({ createToken }, [...flags, ...all]);
    expect(exit).toBe(0);
    expect(headers[0]?.authorization).toBe("Bearer secret-of-the-caller");
    expect(sent).toMatchObject({
      tenant: "acme",
      profile: "pat",
      principal: "user:ann",
      displayName: "laptop",
      description: "mine",
      scopes: ["a", "b"],
      audiences: ["https://x"],
      allowedCidrs: ["10.0.0.0/8"],
      annotations: { k: "v=w", l: "" },
      lifetime: { case: "ttl", value: { seconds: 7_776_000n, nanos: 0 } },
      notBeforeTime: { seconds: 1_800_000_000n },
      requestId: expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
  });

  it.each([
    [[], { case: undefined }],
    [["--no-expiry"], { case: "noExpiry", value: true }],
    [["--expires-at", "2027-01-15T08:00:00Z"], { case: "expireTime", value: { seconds: 1_800_000_000n } }],
  ])("sends the lifetime %j", async (lifetime, expected) => {
    let sent: CreateTokenRequest | undefined;
    const createToken = (request: CreateTokenRequest) => {
      sent = request;
      return { token };
    };
    await against({ createToken }, [...flags, ...lifetime]);
    expect(sent?.lifetime).toMatchObject(expected);
  });

  it("shows the record, the words and the token string; with --quiet the string alone; with --json all of it", async () => {
    const warning = "A word of the server.";
    const createToken = () => ({ token, tokenString: STRING, warning });
    const people = await against({ createToken }, flags);
    expect(people.out).toMatch(/^hint +sp_pat_1x7Kd02Qa$/m);
    expect(people.out).toMatch(/^expires +\S+Z \(in 90d\)$/m);
    expect(people.out).toMatch(new RegExp(`\n${warning}\n${STRING}\n$`));
    const old = await against({ createToken: () => ({ token, tokenString: STRING }) }, flags);
    expect(old.out).toMatch(new RegExp(`shown once.*\n${STRING}\n$`));
    expect((await against({ createToken }, [...flags, "--quiet"])).out).toBe(`${STRING}\n`);
    const programs = JSON.parse((await against({ createToken }, ["--json", ...flags])).out);
    expect(programs).toMatchObject({
      token: { id: "tok_1", state: "TOKEN_STATE_ACTIVE", scopes: [] },
      tokenString: STRING,
      warning,
    });
  });

  it("explains how to repeat a call with an unknown outcome: with the id that it sent", async () => {
    let sent: CreateTokenRequest | undefined;
    const createToken = (request: CreateTokenRequest) => {
      sent = request;
      throw apiError(Code.Unavailable, "OUTCOME_UNKNOWN", "unknown");
    };
    const { exit, err } = await against({ createToken }, flags);
    expect(exit).toBe(69);
    expect(err).toContain(`safe to repeat with --request-id ${sent?.requestId}`);
    const again = await against({ createToken }, [...flags, "--request-id", sent?.requestId ?? ""]);
    expect(again.err).toBe(err);
  });

  it.each([
    [["--ttl", "5x"]],
    [["--ttl", "5d", "--no-expiry"]],
    [["--ttl", "5d", "--expires-at", "2027-01-15"]],
    [["--request-id", "1"]],
    [["--annotation", "k"]],
    [["--wrong"]],
    [["excess"]],
  ])("refuses %j as usage, before any call", async (more) => {
    const { exit, out, err, headers } = await against({}, [...flags, ...more]);
    expect({ exit, out, calls: headers.length }).toEqual({ exit: 2, out: "", calls: 0 });
    expect(err).toMatch(/^sallyport: /);
  });

  it("never prints a token string that the server echoes in an error", async () => {
    const createToken = () => {
      throw apiError(Code.Internal, "INTERNAL", `could not store ${STRING}`);
    };
    const { exit, err } = await against({ createToken }, flags);
    expect(exit).toBe(70);
    expect(err).toContain("could not store [token string]");
    expect(err.trimEnd().split("\n")).toHaveLength(1);
  });
});

describe("tokens rotate", () => {
  it("sends overlap, lifetime and request id, and shows the new string once", async () => {
    let sent: RotateTokenRequest | undefined;
    const rotateToken = (request: RotateTokenRequest) => {
      sent = request;
      return { token: { ...token, id: "tok_2" }, previous: token, tokenString: STRING, effect };
    };
    const argv = ["tokens", "rotate", "tok_1", "--overlap", "24h", "--ttl", "30d", "--no-wait"];
    const { out } = await against({ rotateToken }, argv);
    expect(sent).toMatchObject({
      id: "tok_1",
      overlap: { seconds: 86_400n },
      lifetime: { case: "ttl", value: { seconds: 2_592_000n } },
      requestId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      noWait: true,
    });
    expect(out).toContain(IN_FORCE);
    expect(out).toMatch(new RegExp(`shown once.*\n${STRING}\n$`));
    expect((await against({ rotateToken }, [...argv, "--quiet"])).out).toBe(`${STRING}\n`);
  });
});
