import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServiceImpl } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import {
  type CreateTokenRequest,
  type ListTokensRequest,
  type RevokeTokenRequest,
  type RevokeTokensRequest,
  type RotateTokenRequest,
  TokenAdmin,
  TokenState,
  type UpdateTokenRequest,
} from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { apiError, Code, cli, fromNow, peer } from "./peer.ts";

const STRING = `sp_pat_1x7Kd02Qa${"s".repeat(43)}abcdef`;
const DAY = 86_400_000;
const token = {
  id: "tok_1",
  hint: "sp_pat_1x7Kd02Qa",
  principal: "user:ann",
  displayName: "laptop",
  profile: "pat",
  state: TokenState.ACTIVE,
  expireTime: fromNow(90 * DAY + 60_000),
};
const effect = { mode: EffectMode.ACKED, position: 42n, waited: { seconds: 0n, nanos: 12_000_000 } };
const IN_FORCE = "in force everywhere after 12 ms (ACKED), position 42";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sallyport-cli-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Runs one command against a door with these methods. */
async function against(impl: Partial<ServiceImpl<typeof TokenAdmin>>, argv: string[], stdin?: string) {
  await using door = await peer((router) => router.service(TokenAdmin, impl));
  return { ...(await cli([...argv, "--address", door.address], { stdin })), headers: door.headers };
}

describe("tokens create", () => {
  const flags = ["tokens", "create", "--profile", "pat", "--principal", "user:ann"];

  it("sends what the flags say, and a request id of its own", async () => {
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
    const createToken = () => ({ token, tokenString: STRING });
    const people = await against({ createToken }, flags);
    expect(people.out).toMatch(/^hint +sp_pat_1x7Kd02Qa$/m);
    expect(people.out).toMatch(/^expires +\S+Z \(in 90d\)$/m);
    expect(people.out).toMatch(new RegExp(`shown once.*\n${STRING}\n$`));
    expect((await against({ createToken }, [...flags, "--quiet"])).out).toBe(`${STRING}\n`);
    const programs = JSON.parse((await against({ createToken }, ["--json", ...flags])).out);
    expect(programs).toMatchObject({
      token: { id: "tok_1", state: "TOKEN_STATE_ACTIVE", scopes: [] },
      tokenString: STRING,
    });
  });

  it("says how to repeat a call whose outcome is unknown: with the id that it sent", async () => {
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

describe("tokens list", () => {
  it("sends the filters and shows hint, state and what is left of the life", async () => {
    let sent: ListTokensRequest | undefined;
    const listTokens = (request: ListTokensRequest) => {
      sent = request;
      return { tokens: [token, { ...token, id: "tok_2", displayName: "", expireTime: undefined }] };
    };
    const filters = ["--principal", "user:ann", "--profile", "pat", "--state", "not-yet-valid", "--hint", "sp_pat_1"];
    const before = Date.now() - 36 * 3_600_000;
    const { out, err } = await against({ listTokens }, ["tokens", "list", ...filters, "--last-used-before", "36h"]);
    expect(sent).toMatchObject({
      principal: "user:ann",
      profile: "pat",
      state: TokenState.NOT_YET_VALID,
      hint: "sp_pat_1",
      pageSize: 50,
    });
    expect(Number(sent?.lastUsedBefore?.seconds) * 1000).toBeGreaterThan(before - 1000);
    expect(Number(sent?.lastUsedBefore?.seconds) * 1000).toBeLessThanOrEqual(Date.now() - 36 * 3_600_000);
    expect(out.split("\n").map((line) => line.split(/ {2,}/))).toEqual([
      ["ID", "HINT", "PRINCIPAL", "NAME", "STATE", "EXPIRES", "LAST USED"],
      ["tok_1", "sp_pat_1x7Kd02Qa", "user:ann", "laptop", "ACTIVE", "in 90d", "never"],
      ["tok_2", "sp_pat_1x7Kd02Qa", "user:ann", "-", "ACTIVE", "never", "never"],
      [""],
    ]);
    expect(err).toBe("");
  });

  /** A door with 1234 tokens, in pages of at most 500. */
  function many(sizes: number[]): Partial<ServiceImpl<typeof TokenAdmin>> {
    return {
      listTokens: ({ pageSize, pageToken }) => {
        sizes.push(pageSize);
        const start = Number(pageToken || 0);
        const end = Math.min(start + pageSize, 1234);
        const tokens = Array.from({ length: end - start }, (_, index) => ({ id: `tok_${start + index}` }));
        return { tokens, nextPageToken: end < 1234 ? String(end) : "" };
      },
    };
  }

  it.each([
    [[], [50], 50],
    [["--limit", "7"], [7], 7],
    [["--limit", "700"], [500, 200], 700],
    [["--all"], [500, 500, 500], 1234],
  ])("turns the pages as %j asks", async (flags, expected, count) => {
    const sizes: number[] = [];
    const { out, err } = await against(many(sizes), ["tokens", "list", ...flags]);
    expect(sizes).toEqual(expected);
    expect(out.trimEnd().split("\n")).toHaveLength(count + 1);
    expect(out).toContain(`tok_${count - 1} `);
    expect(err).toBe(count < 1234 ? "There are more: --limit COUNT, or --all.\n" : "");
  });

  it("makes one JSON document of all pages", async () => {
    const { out, err } = await against(many([]), ["tokens", "list", "--limit", "700", "--json"]);
    const { tokens, nextPageToken } = JSON.parse(out);
    expect([tokens.length, nextPageToken, err]).toEqual([700, "700", ""]);
  });
});

describe("tokens get and update", () => {
  it("gets one token by its id", async () => {
    const { out } = await against({ getToken: ({ id }) => ({ token: { ...token, id } }) }, ["tokens", "get", "tok_9"]);
    expect(out).toMatch(/^id +tok_9$/m);
  });

  it.each([
    [["--display-name", "n"], ["display_name"], { displayName: "n" }],
    [["--scope", "a", "--scope", "b", "--enable"], ["scopes", "disabled"], { scopes: ["a", "b"], disabled: false }],
    [["--disable", "--etag", "e"], ["disabled"], { disabled: true, etag: "e" }],
    [["--no-expiry"], ["expire_time"], {}],
    [["--expires-at", "2027-01-15T08:00:00Z"], ["expire_time"], { expireTime: { seconds: 1_800_000_000n } }],
    [["--clear", "scopes", "--clear", "description"], ["scopes", "description"], { scopes: [], description: "" }],
  ])("update %j masks just the fields given", async (flags, paths, fields) => {
    let sent: UpdateTokenRequest | undefined;
    const updateToken = (request: UpdateTokenRequest) => {
      sent = request;
      return { token, effect };
    };
    const { exit, out } = await against({ updateToken }, ["tokens", "update", "tok_1", ...flags]);
    expect(exit).toBe(0);
    expect(sent).toMatchObject({ token: { id: "tok_1", ...fields }, updateMask: { paths }, noWait: false });
    expect(sent?.token?.expireTime !== undefined).toBe("expireTime" in fields);
    expect(out).toContain(IN_FORCE);
  });

  it.each([[[]], [["--disable", "--enable"]], [["--clear", "id"]], [["--no-wait"]]])(
    "update %j is a usage error",
    async (flags) => {
      const { exit, headers } = await against({}, ["tokens", "update", "tok_1", ...flags]);
      expect([exit, headers.length]).toEqual([2, 0]);
    },
  );
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

describe("tokens revoke", () => {
  it("revokes by id, and says since when it is in force", async () => {
    let sent: RevokeTokenRequest | undefined;
    const revokeToken = (request: RevokeTokenRequest) => {
      sent = request;
      return { token: { ...token, state: TokenState.REVOKED }, effect };
    };
    const { out } = await against({ revokeToken }, ["tokens", "revoke", "tok_1", "--family", "--reason", "lost"]);
    expect(sent).toMatchObject({ target: { case: "id", value: "tok_1" }, family: true, reason: "lost", noWait: false });
    expect(out).toMatch(/^state +REVOKED$/m);
    expect(out).toContain(`Revoked, ${IN_FORCE}`);
  });

  it("takes a token string from a file or stdin", async () => {
    const file = join(folder, "found");
    await writeFile(file, `${STRING}\n`);
    const seen: unknown[] = [];
    const revokeToken = ({ target }: RevokeTokenRequest) => {
      seen.push(target);
      return { token, effect };
    };
    await against({ revokeToken }, ["tokens", "revoke", "--token-string-file", file]);
    await against({ revokeToken }, ["tokens", "revoke", "--token-string-file", "-"], `${STRING}\r\n`);
    expect(seen).toEqual([
      { case: "tokenString", value: STRING },
      { case: "tokenString", value: STRING },
    ]);
  });

  it("refuses a token string on the command line, and does not repeat it", async () => {
    for (const argv of [["revoke", STRING], ["revoke-many", "--id", STRING], ["get", "tok_1", STRING], [STRING]]) {
      const { exit, out, err, headers } = await against({}, ["tokens", ...argv]);
      expect([exit, out, headers.length]).toEqual([2, "", 0]);
      expect(err).not.toContain("s".repeat(10));
    }
  });

  it.each([[[]], [["tok_1", "--token-string-file", "-"]]])("wants exactly one of id and string: %j", async (argv) =>
    expect(await against({}, ["tokens", "revoke", ...argv])).toMatchObject({ exit: 2, headers: [] }),
  );
});

describe("tokens revoke-many", () => {
  it("sends all selectors", async () => {
    let sent: RevokeTokensRequest | undefined;
    const revokeTokens = (request: RevokeTokensRequest) => {
      sent = request;
      return { revokedCount: 2, matchedIds: ["tok_1", "tok_2"], effect };
    };
    const selectors = [
      ...["--tenant", "acme", "--principal", "bot:ci", "--profile", "bot", "--created-by", "session:ann"],
      ...["--created-before", "2027-01-15", "--hint", "h1", "--hint", "h2", "--id", "tok_1", "--reason", "leak"],
    ];
    const argv = ["tokens", "revoke-many", ...selectors, "--token-strings-file", "-"];
    const { out } = await against({ revokeTokens }, argv, `${STRING}\n\n  other-string \n`);
    expect(sent).toMatchObject({
      tenant: "acme",
      principal: "bot:ci",
      profile: "bot",
      createdBy: "session:ann",
      createdBefore: { seconds: BigInt(Date.UTC(2027, 0, 15) / 1000) },
      hints: ["h1", "h2"],
      ids: ["tok_1"],
      tokenStrings: [STRING, "other-string"],
      reason: "leak",
      noWait: false,
      dryRun: false,
    });
    expect(out).toBe(`tok_1\ntok_2\n\n2 tokens revoked, ${IN_FORCE}\n`);
  });

  it("a dry run says that nothing was changed", async () => {
    const revokeTokens = ({ dryRun }: RevokeTokensRequest) => ({ revokedCount: dryRun ? 1 : 0, matchedIds: ["tok_1"] });
    const { out } = await against({ revokeTokens }, ["tokens", "revoke-many", "--principal", "bot:ci", "--dry-run"]);
    expect(out).toBe("tok_1\n\n1 token would be revoked; nothing was changed\n");
  });

  it.each([
    [[], ""],
    [["--reason", "x", "--dry-run"], ""],
    [["--token-strings-file", "-"], "\n\n"],
    [["--token-strings-file", "-"], "x\n".repeat(1001)],
  ])("refuses a call that selects nothing or too much: %j", async (argv, stdin) =>
    expect(await against({}, ["tokens", "revoke-many", ...argv], stdin)).toMatchObject({ exit: 2, headers: [] }),
  );
});
