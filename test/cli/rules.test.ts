import type { ServiceImpl } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import {
  type CreateTrustRuleRequest,
  FederationAdmin,
  TrustRuleKind,
  type UpdateTrustRuleRequest,
} from "../../src/gen/sallyport/v1/federation_admin_pb.ts";
import { cli, peer } from "./peer.ts";

const effect = { mode: EffectMode.ACCEPTED, position: 9n, effectiveBy: { seconds: 1_800_000_000n, nanos: 0 } };

async function against(impl: Partial<ServiceImpl<typeof FederationAdmin>>, argv: string[]) {
  await using listener = await peer((router) => router.service(FederationAdmin, impl));
  return { ...(await cli(["rules", ...argv, "--address", listener.address])), calls: listener.headers.length };
}

const REQUIRED = ["--issuer", "github", "--kind", "github", "--principal", "bot:ci", "--profile", "bot"];

describe("rules", () => {
  it("create, get and list send the request and show the answer", async () => {
    let sent: CreateTrustRuleRequest | undefined;
    const createTrustRule = (request: CreateTrustRuleRequest) => {
      sent = request;
      return { rule: request.rule };
    };
    const matches = ["--match", "repository_id=74", "--match", "sub^=repo:a/b:", "--match", "x=a^=b"];
    const flags = [
      "--audience",
      "A",
      "--scope",
      "deploy",
      "--max-ttl",
      "10m",
      "--many-uses",
      "--max-mints-per-hour",
      "7",
    ];
    const made = await against({ createTrustRule }, ["create", "deploy", ...REQUIRED, ...matches, ...flags]);
    expect(sent?.rule).toMatchObject({
      ...{ name: "deploy", issuer: "github", kind: TrustRuleKind.GITHUB, principal: "bot:ci", profile: "bot" },
      ...{ audience: "A", scopes: ["deploy"], maxTtl: { seconds: 600n }, singleUse: false, maxMintsPerHour: 7 },
      match: [
        { claim: "repository_id", value: { case: "equals", value: "74" } },
        { claim: "sub", value: { case: "prefix", value: "repo:a/b:" } },
        { claim: "x", value: { case: "equals", value: "a^=b" } },
      ],
    });
    expect(sent?.rule?.maxTokenAge).toBeUndefined();
    expect(made.out).toContain("repository_id=74 sub^=repo:a/b: x=a^=b");
    expect(made.out).toMatch(/^kind +github$/m);
    const got = await against({ getTrustRule: ({ name }) => ({ rule: { name } }) }, ["get", "deploy", "--json"]);
    expect(JSON.parse(got.out)).toMatchObject({ rule: { name: "deploy" } });
    const listTrustRules: ServiceImpl<typeof FederationAdmin>["listTrustRules"] = ({ tenant }) => ({
      rules: [{ name: `of-${tenant}`, id: "trr_1", principal: "bot:ci", disabled: true }],
    });
    expect((await against({ listTrustRules }, ["list", "--tenant", "acme"])).out).toMatch(
      /^of-acme +trr_1 .* disabled/m,
    );
  });

  it.each([
    [["--disable"], ["disabled"], { disabled: true }, "2 tokens revoked"],
    [["--enable", "--single-use"], ["disabled", "single_use"], { disabled: false, singleUse: true }, "position 9"],
    [["--max-token-age", "1h", "--clear", "scopes"], ["max_token_age", "scopes"], { scopes: [] }, "position 9"],
  ])("update %j masks just the fields given, and shows the effect", async (flags, paths, fields, shown) => {
    let sent: UpdateTrustRuleRequest | undefined;
    const updateTrustRule = (request: UpdateTrustRuleRequest) => {
      sent = request;
      return { rule: { name: "deploy" }, effect, revokedCount: 2 };
    };
    const { out } = await against({ updateTrustRule }, ["update", "deploy", "--no-wait", ...flags]);
    expect(sent).toMatchObject({ rule: { name: "deploy", ...fields }, updateMask: { paths }, noWait: true });
    expect(out).toContain(shown);
  });

  it("delete shows how many tokens it revoked", async () => {
    const deleteTrustRule: ServiceImpl<typeof FederationAdmin>["deleteTrustRule"] = ({ name }) => ({
      ...{ rule: { name }, effect, revokedCount: 1 },
    });
    expect((await against({ deleteTrustRule }, ["delete", "deploy"])).out).toContain("1 token revoked");
  });

  it.each([
    ["no field", ["update", "deploy"]],
    [
      "an unknown kind",
      ["create", "deploy", "--issuer", "x", "--kind", "jenkins", "--principal", "p", "--profile", "q"],
    ],
    ["no kind", ["create", "deploy", "--issuer", "x", "--principal", "p", "--profile", "q"]],
    ["a match without a value", ["update", "deploy", "--match", "sub"]],
    ["a match without a claim", ["update", "deploy", "--match", "^=x"]],
    ["two opposite flags", ["update", "deploy", "--disable", "--enable"]],
  ])("with %s is a usage error", async (_, argv) =>
    expect(await against({}, argv)).toMatchObject({ exit: 2, calls: 0 }),
  );
});
