import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TokenValidator, type ValidateTokenRequest, Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { cli, peer } from "./peer.ts";

const STRING = `sp_pat_1x7Kd02Qa${"s".repeat(43)}abcdef`;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sallyport-cli-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function validate(
  verdict: Verdict,
  argv: string[] = [],
  stdin = `${STRING}\n`,
  env: Record<string, string> = {},
) {
  let sent: ValidateTokenRequest | undefined;
  await using listener = await peer((router) =>
    router.service(TokenValidator, {
      validateToken: (request) => {
        sent = request;
        const token = verdict === Verdict.INVALID_TOKEN ? undefined : { id: "tok_1", principal: "bot:ci" };
        return { verdict, token, missingScopes: verdict === Verdict.INSUFFICIENT_SCOPE ? ["a"] : [] };
      },
    }),
  );
  const run = await cli(["validate", ...argv], { stdin, env: { SALLYPORT_DATA_ADDRESS: listener.address, ...env } });
  return { ...run, sent, headers: listener.headers };
}

describe("validate", () => {
  it.each([
    [Verdict.ALLOW, 0, /^ALLOW\n\nid +tok_1\nprincipal +bot:ci\nexpires +never\n$/],
    [Verdict.INVALID_TOKEN, 1, /^INVALID_TOKEN\n$/],
    [Verdict.INSUFFICIENT_SCOPE, 1, /^INSUFFICIENT_SCOPE\n\nmissing scopes +a\nid +tok_1$/m],
    [Verdict.WRONG_AUDIENCE, 1, /^WRONG_AUDIENCE\n/],
    [Verdict.WRONG_TENANT, 1, /^WRONG_TENANT\n/],
    [Verdict.ADDRESS_NOT_ALLOWED, 1, /^ADDRESS_NOT_ALLOWED\n/],
    [Verdict.RATE_LIMITED, 1, /^RATE_LIMITED\n/],
    [Verdict.UNDETERMINED, 69, /^UNDETERMINED\n/],
  ])("verdict %d ends with its exit code", async (verdict, code, text) => {
    const { exit, out, err } = await validate(verdict);
    expect(exit).toBe(code);
    expect(out).toMatch(text);
    expect(err).toBe("");
  });

  it("sends the string of stdin unchanged, with the requirement", async () => {
    const flags = ["--scope", "a", "--scope", "b", "--audience", "https://x", "--client-address", "10.0.0.1"];
    const { sent } = await validate(Verdict.ALLOW, flags, ` ${STRING} \r\n`);
    expect(sent).toMatchObject({
      tokenString: ` ${STRING} `,
      requiredScopes: ["a", "b"],
      audience: "https://x",
      context: { clientAddress: "10.0.0.1" },
    });
  });

  it("reads the string from --token-file, and its own credential from another source", async () => {
    const judged = join(folder, "judged");
    const own = join(folder, "own");
    await writeFile(judged, `${STRING}\n`);
    await writeFile(own, "my-own-token\n");
    const { sent, headers } = await validate(Verdict.ALLOW, ["--token-file", judged, "--caller-token-file", own], "");
    expect(sent?.tokenString).toBe(STRING);
    expect(headers[0]?.authorization).toBe("Bearer my-own-token");
  });

  it("sends no credential that was not given for it", async () => {
    const { headers } = await validate(Verdict.ALLOW, [], STRING, { SALLYPORT_TOKEN: "" });
    expect(headers).toHaveLength(1);
    expect(headers[0]).not.toHaveProperty("authorization");
  });

  it.each([[[STRING]], [["some", "words"]], [["--address", "http://127.0.0.1:1"]]])(
    "refuses %j and repeats none of it",
    async (argv) => {
      const { exit, out, err, headers } = await validate(Verdict.ALLOW, argv);
      expect([exit, out, headers.length]).toEqual([2, "", 0]);
      for (const word of argv.filter((word) => !word.startsWith("-"))) expect(err).not.toContain(word);
    },
  );
});
