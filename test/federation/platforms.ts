import { generateKeyPairSync } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { TrustRuleKind, type TrustRuleSchema } from "../../src/gen/sallyport/v1/federation_admin_pb.ts";
import type { Made, TestIssuer } from "../sessions/issuer.ts";
import type { TestSallyport } from "../support/sallyport.ts";

export const AUDIENCE = "https://sallyport.example";

const equal = (claim: string, value: string) => ({ claim, value: { case: "equals" as const, value } });
const begins = (claim: string, value: string) => ({ claim, value: { case: "prefix" as const, value } });

/** The JWTs of a platform as it makes them, and a rule that takes them. */
export interface Platform {
  readonly claims: Record<string, unknown>;
  readonly without?: readonly string[];
  readonly header: Record<string, unknown>;
  readonly rule: MessageInitShape<typeof TrustRuleSchema>;
}

const WORKFLOW = "acme/app/.github/workflows/deploy.yml@refs/heads/main";

export const PLATFORMS = {
  github: {
    claims: {
      sub: "repo:acme@65/app@74:ref:refs/heads/main",
      repository: "acme/app",
      repository_id: "74",
      repository_owner: "acme",
      repository_owner_id: "65",
      repository_visibility: "private",
      job_workflow_ref: WORKFLOW,
      ref: "refs/heads/main",
      ref_protected: "true",
      event_name: "push",
      run_id: "9077",
      run_attempt: "1",
      jti: "2f1b1c2a-0b7a-4d3e-9f7a-1f3c5a9d0b11",
    },
    header: { typ: "JWT" },
    rule: {
      kind: TrustRuleKind.GITHUB,
      match: [
        equal("repository_owner_id", "65"),
        equal("repository_id", "74"),
        equal("job_workflow_ref", WORKFLOW),
        equal("ref", "refs/heads/main"),
      ],
    },
  },
  gitlab: {
    claims: {
      sub: "project_path:group/app:ref_type:branch:ref:main",
      namespace_id: "72",
      namespace_path: "group",
      project_id: "20",
      project_path: "group/app",
      user_id: "1",
      user_login: "ann",
      pipeline_id: "574",
      job_id: "302",
      ref: "main",
      ref_type: "branch",
      ref_protected: "true",
      jti: "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
    },
    header: { typ: "JWT" },
    rule: {
      kind: TrustRuleKind.GITLAB,
      match: [equal("project_id", "20"), equal("ref", "main"), equal("ref_protected", "true")],
    },
  },
  kubernetes: {
    claims: {
      aud: [AUDIENCE],
      sub: "system:serviceaccount:shop:deployer",
      "kubernetes.io": {
        namespace: "shop",
        node: { name: "n1", uid: "65f0" },
        pod: { name: "deployer-0", uid: "7b2a" },
        serviceaccount: { name: "deployer", uid: "14ee" },
      },
      jti: "a7d1c3d6-6a3e-4b57-8f6e-0e8ad0a6f0a5",
    },
    header: { typ: undefined },
    rule: {
      kind: TrustRuleKind.KUBERNETES,
      match: [equal("sub", "system:serviceaccount:shop:deployer"), equal("/kubernetes.io/namespace", "shop")],
    },
  },
  spiffe: {
    claims: { aud: [AUDIENCE], sub: "spiffe://prod.example/ns/shop/sa/deployer" },
    without: ["iss"],
    header: { typ: undefined },
    rule: { kind: TrustRuleKind.SPIFFE, match: [begins("sub", "spiffe://prod.example/ns/shop/")] },
  },
} as const satisfies Record<string, Platform>;

export type PlatformName = keyof typeof PLATFORMS;

/** A key of the platform, for an algorithm that the configuration does not name. */
export const ES256 = generateKeyPairSync("ec", { namedCurve: "P-256" });

/** A platform whose JWTs the servers of a test take. */
export class TestPlatform {
  readonly issuer: TestIssuer;
  #jti = 0;

  constructor(issuer: TestIssuer) {
    this.issuer = issuer;
    issuer.alsoPublished = [{ ...ES256.publicKey.export({ format: "jwk" }), kid: "es", use: "sig" }];
  }

  get config() {
    const { url } = this.issuer;
    return { federation: { issuers: [{ name: "platform", issuer: url, jwks_uri: `${url}/keys` }] } };
  }

  /** A JWT of the platform's shape, with an id of its own, and with what the test changes. */
  async jwt(name: PlatformName, made: Made = {}): Promise<string> {
    const { claims, header, without = [] } = PLATFORMS[name] as Platform;
    const jti = "jti" in claims ? { jti: `jti-${++this.#jti}` } : {};
    return this.issuer.jwt({
      ...made,
      claims: { aud: AUDIENCE, ...claims, ...jti, ...made.claims },
      without: ["groups", "kind", ...without, ...(made.without ?? [])],
      header: { ...header, ...made.header },
    });
  }
}

let made = 0;

/** A rule for a platform's JWTs; returns its name and id. */
export async function ruleFor(
  server: TestSallyport,
  name: PlatformName,
  more: MessageInitShape<typeof TrustRuleSchema> = {},
): Promise<{ name: string; id: string }> {
  const asked = {
    ...{ name: `rule-${++made}`, issuer: "platform", audience: AUDIENCE, principal: "bot:ci", profile: "bot" },
    ...{ scopes: ["deploy", "repo:*"], ...PLATFORMS[name].rule, ...more },
  };
  const { rule } = await server.admin.federation.createTrustRule({ rule: asked });
  return { name: rule!.name, id: rule!.id };
}

const GRANT = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt";

/** Posts an exchange as a workload does. Parameters of undefined are left out. */
export async function exchange(
  server: TestSallyport,
  rule: string,
  jwt: string,
  more: Record<string, string | undefined> = {},
): Promise<{ status: number; body: Record<string, unknown>; text: string; headers: Headers }> {
  const all = { grant_type: GRANT, subject_token_type: JWT_TYPE, subject_token: jwt, rule, ...more };
  const given = Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const response = await server.post("admin", "/v1/token", new URLSearchParams(given).toString(), {
    "content-type": "application/x-www-form-urlencoded",
  });
  const text = await response.text();
  return {
    status: response.status,
    body: JSON.parse(text) as Record<string, unknown>,
    text,
    headers: response.headers,
  };
}
