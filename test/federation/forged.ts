import { createHmac, sign } from "node:crypto";
import { exportJWK, exportSPKI, generateKeyPair } from "jose";
import type { ExchangeOutcome } from "../../src/domain/exchange.ts";
import type { Made } from "../sessions/issuer.ts";
import { AUDIENCE, ES256, type PlatformName, type TestPlatform } from "./platforms.ts";

/** A JWT that looks like one of a platform, and is not good for the platform's rule. */
export interface Forgery {
  readonly title: string;
  readonly name: PlatformName;
  readonly refused: ExchangeOutcome;
  make(platform: TestPlatform): Promise<string>;
}

const part = (value: object | string) =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
const at = (seconds: number) => Math.floor(Date.now() / 1000) + seconds;
const parts = async (platform: TestPlatform, made?: Made) => (await platform.jwt("github", made)).split(".");
const kid = { kid: "k1", typ: "JWT" };
const { publicKey: strangers } = await generateKeyPair("RS256", { extractable: true });

/** Signed by the platform, with this change. */
function signed(
  title: string,
  refused: ExchangeOutcome,
  made: Made | (() => Made),
  name: PlatformName = "github",
): Forgery {
  const make = (platform: TestPlatform) => platform.jwt(name, typeof made === "function" ? made() : made);
  return { title, name, refused, make };
}

const claims = (of: Record<string, unknown>): Made => ({ claims: of });

/** Put together by hand from a good JWT. */
function built(title: string, refused: ExchangeOutcome, make: (platform: TestPlatform) => Promise<string>): Forgery {
  return { title, name: "github", refused, make };
}

export const FORGERIES: readonly Forgery[] = [
  // ------------------------------------------------------------------------------------------- form
  built("no JWT", "malformed", async () => "nonsense"),
  built("a JWT of five parts", "malformed", async (platform) => [...(await parts(platform)), "a", "b"].join(".")),
  built("a signature with padding", "malformed", async (platform) => `${await platform.jwt("github")}==`),
  built("a payload that is no JSON", "malformed", async (platform) => {
    const [header, , signature] = await parts(platform);
    return [header, part("{"), signature].join(".");
  }),
  built("a payload that is a list", "malformed", async (platform) => {
    const [header, , signature] = await parts(platform);
    return [header, part("[]"), signature].join(".");
  }),
  built("a token string of ours", "malformed", async () => "sp_bot_10Aa0000000000000000000000000000000000000000000"),
  signed("more than 8 KiB", "too_long", claims({ padding: "x".repeat(8192) })),
  // ------------------------------------------------------------------------------------------- signature
  built("alg none without a signature", "algorithm", async (platform) => {
    const [, payload] = await parts(platform);
    return [part({ alg: "none", ...kid }), payload, ""].join(".");
  }),
  built("alg none with a signature", "algorithm", async (platform) => {
    const [, payload, signature] = await parts(platform);
    return [part({ alg: "none", ...kid }), payload, signature].join(".");
  }),
  built("HS256 with the public key as secret", "algorithm", async (platform) => {
    const [, payload] = await parts(platform);
    const head = `${part({ alg: "HS256", ...kid })}.${payload}`;
    const secret = await exportSPKI(platform.issuer.publicKey());
    return `${head}.${createHmac("sha256", secret).update(head).digest("base64url")}`;
  }),
  built("an algorithm that is not configured", "algorithm", async (platform) => {
    const [, payload] = await parts(platform);
    const head = `${part({ alg: "ES256", typ: "JWT", kid: "es" })}.${payload}`;
    const key = { key: ES256.privateKey, dsaEncoding: "ieee-p1363" } as const;
    return `${head}.${sign("sha256", Buffer.from(head), key).toString("base64url")}`;
  }),
  signed("another key under the same id", "signature", { key: 1 }),
  signed("an id of no key", "key_unknown", { header: { kid: "k9" } }),
  built("the key in the header", "signature", async (platform) => {
    return platform.jwt("github", { key: 1, header: { jwk: await exportJWK(strangers) } });
  }),
  signed("an address of keys in the header", "signature", { key: 1, header: { jku: "https://attacker.example/keys" } }),
  built("claims changed after signing", "signature", async (platform) => {
    const [header, payload, signature] = await parts(platform, claims({ actor: "ann" }));
    const changed = JSON.parse(Buffer.from(payload!, "base64url").toString()) as object;
    return [header, part({ ...changed, actor: "bob" }), signature].join(".");
  }),
  built("a header changed after signing", "signature", async (platform) => {
    const [, payload, signature] = await parts(platform);
    return [part({ alg: "RS256", ...kid, x: 1 }), payload, signature].join(".");
  }),
  built("a signature of another JWT", "signature", async (platform) => {
    const [header, payload] = await parts(platform);
    return [header, payload, (await parts(platform, claims({ actor: "x" })))[2]].join(".");
  }),
  built("half a signature", "signature", async (platform) => (await platform.jwt("github")).slice(0, -100)),
  built("no signature", "signature", async (platform) => [...(await parts(platform)).slice(0, 2), ""].join(".")),
  // ------------------------------------------------------------------------------------------- header
  signed("a critical header", "critical_header", { header: { crit: ["b64"], b64: true } }),
  signed("another typ", "type", { header: { typ: "at+jwt" } }),
  signed("no typ", "type", { header: { typ: undefined } }),
  // ------------------------------------------------------------------------------------------- issuer and audience
  signed("another issuer", "issuer", claims({ iss: "https://attacker.example" })),
  built("an issuer that differs by a slash", "issuer", (platform) =>
    platform.jwt("github", claims({ iss: `${platform.issuer.url}/` })),
  ),
  built("a list of issuers", "issuer", (platform) => platform.jwt("github", claims({ iss: [platform.issuer.url] }))),
  signed("no issuer", "issuer", { without: ["iss"] }),
  signed("another audience", "audience", claims({ aud: "https://other.example" })),
  signed("no audience", "audience", { without: ["aud"] }),
  signed("other audiences", "audience", claims({ aud: ["a", "b"] })),
  signed("an audience that begins so", "audience", claims({ aud: `${AUDIENCE}.attacker.example` })),
  signed("an audience in other letters", "audience", claims({ aud: AUDIENCE.toUpperCase() })),
  signed("an audience in a list of lists", "audience", claims({ aud: [[AUDIENCE]] })),
  // ------------------------------------------------------------------------------------------- times
  signed("an end in the past", "expired", () => claims({ exp: at(-31) })),
  signed("no end", "claim_missing", { without: ["exp"] }),
  signed("an end as text", "claim_missing", () => claims({ exp: String(at(300)) })),
  signed("a start in the future", "not_yet_valid", () => claims({ nbf: at(60) })),
  signed("a start as text", "claim_missing", claims({ nbf: "0" })),
  signed("made in the future", "issued_at", () => claims({ iat: at(60) })),
  signed("made too long ago", "too_old", () => claims({ iat: at(-640) })),
  signed("no time of issue", "claim_missing", { without: ["iat"] }),
  signed("a time of issue as text", "claim_missing", () => claims({ iat: String(at(0)) })),
  // ------------------------------------------------------------------------------------------- the workload
  signed("no subject", "claim_missing", { without: ["sub"] }),
  signed("an empty subject", "claim_missing", claims({ sub: "" })),
  signed("a subject that is a number", "claim_missing", claims({ sub: 7 })),
  signed("another repository", "claim_mismatch", claims({ repository_id: "75" })),
  signed("a repository that begins so", "claim_mismatch", claims({ repository_id: "741" })),
  signed("a repository as number", "claim_mismatch", claims({ repository_id: 74 })),
  signed("no repository", "claim_mismatch", { without: ["repository_id"] }),
  signed("another owner with the same name", "claim_mismatch", claims({ repository_owner_id: "66" })),
  signed("another workflow", "claim_mismatch", claims({ job_workflow_ref: "acme/app/.github/workflows/x.yml@main" })),
  signed("another branch", "claim_mismatch", claims({ ref: "refs/heads/main2" })),
  signed("a claim in a list", "claim_mismatch", claims({ ref: ["refs/heads/main"] })),
  signed("a claim with a space", "claim_mismatch", claims({ ref: "refs/heads/main " })),
  signed("another project", "claim_mismatch", claims({ project_id: "21" }), "gitlab"),
  signed("a protected ref as boolean", "claim_mismatch", claims({ ref_protected: true }), "gitlab"),
  signed(
    "another service account",
    "claim_mismatch",
    claims({ sub: "system:serviceaccount:shop:other" }),
    "kubernetes",
  ),
  signed(
    "a service account that begins so",
    "claim_mismatch",
    claims({ sub: "system:serviceaccount:shop:deployer2" }),
    "kubernetes",
  ),
  signed("another nested claim", "claim_mismatch", claims({ "kubernetes.io": { namespace: "other" } }), "kubernetes"),
  signed("no nested claim", "claim_mismatch", { without: ["kubernetes.io"] }, "kubernetes"),
  signed(
    "a path beside the prefix",
    "claim_mismatch",
    claims({ sub: "spiffe://prod.example/ns/shop2/sa/x" }),
    "spiffe",
  ),
  signed(
    "a path that climbs",
    "claim_mismatch",
    claims({ sub: "spiffe://prod.example/ns/shop/../bank/sa/x" }),
    "spiffe",
  ),
  signed("another trust domain", "claim_mismatch", claims({ sub: "spiffe://test.example/ns/shop/sa/x" }), "spiffe"),
  built("a JWT of another platform", "claim_mismatch", (platform) => platform.jwt("gitlab")),
  {
    title: "an issuer of another SPIFFE platform",
    name: "spiffe",
    refused: "issuer",
    // Left out as the platform does, and then given.
    make: async (platform) =>
      platform.issuer.jwt({
        claims: { aud: AUDIENCE, sub: "spiffe://prod.example/ns/shop/sa/deployer", iss: "https://attacker.example" },
        header: { typ: undefined },
      }),
  },
];
