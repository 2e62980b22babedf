import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { HandlerContext } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type DetachTenantRequest,
  type RevokeTokenRequest,
  type RevokeTokensRequest,
  TokenState,
} from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { against, effect, IN_FORCE, STRING, token } from "./token-peer.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sallyport-cli-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("tokens detach", () => {
  it("takes a token out of a tenant, and shows when that is in force", async () => {
    let sent: DetachTenantRequest | undefined;
    const detachTenant = (request: DetachTenantRequest) => {
      sent = request;
      return { effect };
    };
    const { exit, out } = await against({ detachTenant }, ["tokens", "detach", "tok_1", "--tenant", "blue"]);
    expect(exit).toBe(0);
    expect(sent).toMatchObject({ id: "tok_1", tenant: "blue", noWait: false });
    expect(out.toLowerCase()).toContain(IN_FORCE.toLowerCase());
    await against({ detachTenant }, ["tokens", "detach", "tok_1", "--no-wait"]);
    expect(sent).toMatchObject({ tenant: "", noWait: true });
    expect((await against({}, ["tokens", "detach"])).exit).toBe(2);
  });
});

describe("tokens revoke", () => {
  it("revokes by id, and shows when it is in force", async () => {
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

  it.each([[[]], [["tok_1", "--token-string-file", "-"]]])("requires exactly one of id and string: %j", async (argv) =>
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
      ...[
        "--tenant",
        "acme",
        "--principal",
        "bot:ci",
        "--profile",
        "bot",
        "--created-by",
        "session:ann",
        "--role",
        "deployer",
      ],
      "--descendants",
      ...["--last-used-before", "2026-01-15", "--expires-after", "2028-01-15", "--never-expires"],
      ...["--created-before", "2027-01-15", "--hint", "h1", "--hint", "h2", "--id", "tok_1", "--reason", "leak"],
    ];
    const argv = ["tokens", "revoke-many", ...selectors, "--token-strings-file", "-"];
    const { out } = await against({ revokeTokens }, argv, `${STRING}\n\n  other-string \n`);
    expect(sent).toMatchObject({
      tenant: "acme",
      principal: "bot:ci",
      profile: "bot",
      createdBy: "session:ann",
      role: "deployer",
      descendants: true,
      createdBefore: { seconds: BigInt(Date.UTC(2027, 0, 15) / 1000) },
      lastUsedBefore: { seconds: BigInt(Date.UTC(2026, 0, 15) / 1000) },
      expiresAfter: { seconds: BigInt(Date.UTC(2028, 0, 15) / 1000) },
      noExpiry: true,
      hints: ["h1", "h2"],
      ids: ["tok_1"],
      tokenStrings: [STRING, "other-string"],
      reason: "leak",
      noWait: false,
      dryRun: false,
    });
    expect(out).toBe(`tok_1\ntok_2\n\n2 tokens revoked, ${IN_FORCE}\n`);
  });

  it("a dry run reports that nothing was changed", async () => {
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

it("reports on stderr that the caller's own token ends soon, and leaves the answer as it is", async () => {
  const ends = new Date(Date.now() + 3 * 86_400_000 + 60_000).toISOString();
  const revokeTokens = (_: RevokeTokensRequest, context: HandlerContext) => {
    context.responseHeader.set("sallyport-token-ends", ends);
    return { revokedCount: 1, matchedIds: [], effect };
  };
  const argv = ["tokens", "revoke-many", "--principal", "bot:ci"];
  const { out, err } = await against({ revokeTokens }, argv);
  expect(err).toBe("your token ends in 3d: mint one for another principal, or use sallyport bootstrap --again\n");
  expect(out).toBe(`1 token revoked, ${IN_FORCE}\n`);
  expect((await against({ revokeTokens }, [...argv, "--json"])).err).toBe("");
});
