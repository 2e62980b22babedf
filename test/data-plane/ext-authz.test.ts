import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ExtAuthz } from "../../src/data-plane/check/ext-authz.ts";
import { HttpCheck } from "../../src/data-plane/check/http-check.ts";
import { IDENTITY, Policies, type PolicySettings } from "../../src/data-plane/policy.ts";
import type { Requirement } from "../../src/domain/decide.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import {
  CheckRequestSchema,
  type CheckResponse,
  CheckResponseSchema,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import type { Validate, ValidateKnown, ValidationResult } from "../../src/validation/validate.ts";

const settings: PolicySettings = {
  required_scopes: ["api.read"],
  audience: "",
  tenant: "",
  tenant_from: "",
  carriers: ["bearer", "x-api-key"],
  realm: "api",
  outage: "deny",
  headers: {},
  client_address: "peer",
  keep_credential: false,
  allow_cors_preflight: false,
};
const policies = new Policies({
  api: settings,
  renamed: { ...settings, headers: { "x-auth-principal": "x-user", "x-auth-tenant": false } },
  open: { ...settings, outage: "error" },
  cors: { ...settings, allow_cors_preflight: true },
  git: { ...settings, carriers: ["bearer", "header:private-token", "header:job-token"] },
  named: { ...settings, tenant_from: "header:x-organization" },
  namedcors: { ...settings, tenant_from: "header:x-organization", allow_cors_preflight: true },
});
const snapshot: TokenSnapshot = {
  version: { epoch: "e", position: 1 },
  id: "tok_0000000000000000000000",
  digest: "d",
  tenant: "acme",
  profile: "pat",
  principal: "user:ann",
  scopes: ["api.read", "api.write"],
  roles: [],
  attachments: [],
  audiences: [],
  allowedCidrs: [],
  annotations: {},
  hint: "sp_pat_1abcdefgh",
  rotated: false,
  revoked: false,
  disabled: false,
  cut: false,
  principalState: "ACTIVE",
  tenantState: "ACTIVE",
};

const saying =
  (answer: Partial<ValidationResult>): Validate =>
  () =>
    ({ verdict: "ALLOW", tier: "l1", ...answer }) as ValidationResult;
const SECRET = "sp_pat_1abcdefghSECRET";

function message(
  headers: Record<string, string>,
  extensions: Record<string, string> = { policy: "api" },
  method = "GET",
) {
  const attributes = { request: { http: { method, headers } }, contextExtensions: extensions };
  return toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes }));
}

async function check(validate: Validate, bytes: Uint8Array, trusted = true): Promise<CheckResponse> {
  const encoded = await new ExtAuthz(validate, policies).check(bytes, trusted, 0);
  return fromBinary(CheckResponseSchema, encoded.bytes);
}

const bearer = { authorization: `Bearer ${SECRET}` };
const sent = (response: CheckResponse) => {
  const { httpResponse } = response;
  if (httpResponse.case === undefined) return {};
  return Object.fromEntries(httpResponse.value.headers.map(({ header }) => [header?.key, header?.value]));
};

describe("allow", () => {
  test("every identity header overwrites in both ways, and the credential is removed", async () => {
    const response = await check(saying({ snapshot }), message(bearer));
    expect(response.status?.code).toBe(0);
    const { value } = response.httpResponse as Extract<CheckResponse["httpResponse"], { case: "okResponse" }>;
    expect(value.headers.map(({ header }) => header?.key)).toEqual([...IDENTITY]);
    for (const { append, appendAction, header } of value.headers) {
      expect([append, appendAction]).toEqual([false, 2]);
      expect(header?.value).not.toBe("");
      expect(header?.rawValue).toHaveLength(0);
    }
    expect(value.headersToRemove).toEqual(["x-auth-tenants", "authorization", "x-api-key"]);
    expect(response.dynamicMetadata).toMatchObject({ verdict: "ALLOW", principal: "user:ann", hint: snapshot.hint });
    expect(Buffer.from(toBinary(CheckResponseSchema, response)).includes("SECRET")).toBe(false);
  });

  test("a renamed or omitted header is removed under its original name, and no name is both set and removed", async () => {
    const response = await check(saying({ snapshot }), message(bearer, { policy: "renamed" }));
    const { value } = response.httpResponse as Extract<CheckResponse["httpResponse"], { case: "okResponse" }>;
    expect(sent(response)).toMatchObject({ "x-user": "user:ann" });
    expect(value.headersToRemove).toEqual([
      ...["x-auth-principal", "x-auth-tenant", "x-auth-tenants"],
      ...["authorization", "x-api-key"],
    ]);
    const set = new Set(value.headers.map(({ header }) => header?.key));
    expect(value.headersToRemove.filter((name) => set.has(name))).toEqual([]);
  });

  test("the cached answer of one policy does not serve another", async () => {
    const authz = new ExtAuthz(saying({ snapshot }), policies);
    const first = fromBinary(CheckResponseSchema, (await authz.check(message(bearer), true, 0)).bytes);
    const second = fromBinary(
      CheckResponseSchema,
      (await authz.check(message(bearer, { policy: "renamed" }), true, 0)).bytes,
    );
    expect(sent(first)).toHaveProperty("x-auth-principal");
    expect(sent(second)).not.toHaveProperty("x-auth-principal");
  });

  test("a preflight passes if the policy allows it, with nobody's identity", async () => {
    const preflight = { origin: "https://a.example", "access-control-request-method": "PUT" };
    const response = await check(saying({ snapshot }), message(preflight, { policy: "cors" }, "OPTIONS"));
    expect(response.status?.code).toBe(0);
    expect(Object.values(sent(response))).toEqual(["-", "-", "-", "-", "-"]);
    expect((await check(saying({ snapshot }), message(preflight, { policy: "api" }, "OPTIONS"))).status?.code).toBe(16);
  });
});

describe("deny", () => {
  const rows: [string, Partial<ValidationResult>, number, number, string | undefined][] = [
    ["INVALID_TOKEN", { verdict: "INVALID_TOKEN" }, 16, 401, 'Bearer realm="api", error="invalid_token"'],
    ["WRONG_AUDIENCE", { verdict: "WRONG_AUDIENCE", snapshot }, 16, 401, 'Bearer realm="api", error="invalid_token"'],
    [
      "INSUFFICIENT_SCOPE",
      { verdict: "INSUFFICIENT_SCOPE", snapshot },
      7,
      403,
      'Bearer realm="api", error="insufficient_scope", scope="api.read"',
    ],
    ["WRONG_TENANT", { verdict: "WRONG_TENANT", snapshot }, 7, 403, undefined],
    ["ADDRESS_NOT_ALLOWED", { verdict: "ADDRESS_NOT_ALLOWED", snapshot }, 7, 403, undefined],
    ["RATE_LIMITED", { verdict: "RATE_LIMITED", snapshot }, 8, 429, undefined],
    ["UNDETERMINED", { verdict: "UNDETERMINED" }, 14, 503, undefined],
  ];
  test.each(rows)("%s", async (_, answer, code, status, challenge) => {
    const response = await check(saying(answer), message(bearer));
    expect(response.status?.code).toBe(code);
    expect(response.httpResponse).toMatchObject({ case: "deniedResponse", value: { status: { code: status } } });
    expect(sent(response)).toMatchObject({ "cache-control": "no-store", "content-type": "application/problem+json" });
    expect(sent(response)["www-authenticate"]).toBe(challenge);
    expect(Object.keys(sent(response)).some((name) => name?.startsWith("x-auth-"))).toBe(false);
    expect(response.dynamicMetadata).toHaveProperty("verdict");
  });

  test("no credential gets a challenge without an error", async () => {
    expect(sent(await check(saying({}), message({})))["www-authenticate"]).toBe('Bearer realm="api"');
  });

  test("a gRPC caller gets text without a newline, and UNAUTHENTICATED for a malformed request", async () => {
    const grpc = { "content-type": "application/grpc+proto" };
    const response = await check(saying({}), message({ ...grpc, authorization: "Bearer a,b" }));
    expect(response.status?.code).toBe(16);
    expect(response.httpResponse).toMatchObject({ value: { status: { code: 401 }, body: "more than one credential" } });
  });

  test("extensions add scopes and replace audience, tenant and realm; an unknown policy is 403", async () => {
    let asked: unknown;
    const validate: Validate = (_token, requirement) => {
      asked = requirement;
      return { verdict: "INVALID_TOKEN", tier: "none" };
    };
    const extensions = { policy: "api", required_scopes: "a b", audience: "https://x", tenant: "blue", realm: "other" };
    const response = await check(validate, message(bearer, extensions));
    expect(asked).toEqual({ scopes: ["api.read", "a", "b"], audience: "https://x", tenant: "blue" });
    expect(sent(response)["www-authenticate"]).toContain('realm="other"');
    expect((await check(saying({ snapshot }), message(bearer, { policy: "nope" }))).status?.code).toBe(7);
  });

  test("an extension that is no tenant's id lifts no requirement: the route is refused", async () => {
    for (const tenant of ["", "Blue", "a b", "$(org)"]) {
      const response = await check(saying({ snapshot }), message(bearer, { policy: "api", tenant }));
      expect(response.status?.code, tenant).toBe(7);
    }
  });

  test("the cached answer about one tenant does not serve another", async () => {
    const known: ValidateKnown = () => ({ verdict: "ALLOW", tier: "l1", snapshot });
    for (const authz of [new ExtAuthz(saying({ snapshot }), policies), new ExtAuthz(saying({}), policies, known)]) {
      for (const [tenant, shown] of [
        [undefined, "acme"],
        ["blue", "blue"],
        ["red", "red"],
        [undefined, "acme"],
      ] as const) {
        const bytes = message(bearer, { policy: "api", ...(tenant !== undefined && { tenant }) });
        const response = fromBinary(CheckResponseSchema, (await authz.check(bytes, true, 0)).bytes);
        expect(sent(response)["x-auth-tenant"]).toBe(shown);
      }
    }
  });

  describe("a header of the request names the tenant", () => {
    let asked: Requirement | undefined;
    const validate: Validate = (_token, requirement) => {
      asked = requirement;
      return { verdict: "ALLOW", tier: "l1", snapshot };
    };
    /** Answers first wherever it is asked, and would know nothing of the header. */
    const known: ValidateKnown = () => ({ verdict: "ALLOW", tier: "l1", snapshot });
    const asks = async (headers: Record<string, string>, policy = "named") => {
      asked = undefined;
      const authz = new ExtAuthz(validate, policies, known);
      return fromBinary(
        CheckResponseSchema,
        (await authz.check(message({ ...bearer, ...headers }, { policy }), true, 0)).bytes,
      );
    };
    const overHttp = async (headers: [string, string][]) => {
      asked = undefined;
      const path = "/v1/check/forwarded/named";
      const all = [...Object.entries(bearer), ...headers];
      return new HttpCheck(validate, policies).check({ path, method: "GET", headers: all }, true, 0);
    };

    test("which is then required and shown; without it the request is refused", async () => {
      expect(sent(await asks({ "x-organization": "blue" }))["x-auth-tenant"]).toBe("blue");
      expect(asked?.tenant).toBe("blue");
      // A proxy that does not pass the header on must not turn the check off.
      expect((await asks({})).status?.code).toBe(3);
      expect((await overHttp([])).status).toBe(400);
      expect(asked).toBeUndefined();
      expect(Object.fromEntries((await overHttp([["x-organization", "blue"]])).headers)["x-auth-tenant"]).toBe("blue");
      expect(asked?.tenant).toBe("blue");
      // No other policy looks at it.
      expect(sent(await asks({ "x-organization": "blue" }, "api"))["x-auth-tenant"]).toBe("acme");
    });

    test.each(["", "Blue", "blue,red", "blue red", " blue", "b".repeat(64), "blue\u00e9"])(
      "%j is malformed",
      async (value) => {
        expect((await asks({ "x-organization": value })).status?.code).toBe(3);
        expect((await overHttp([["x-organization", value]])).status).toBe(400);
        expect(asked).toBeUndefined();
      },
    );

    test("a preflight needs none, where the policy lets preflights through", async () => {
      const headers = { origin: "https://app.example", "access-control-request-method": "GET" };
      const status = async (policy: string, method = "OPTIONS") => {
        const response = await check(saying({ snapshot }), message(headers, { policy }, method));
        const path = `/v1/check/forwarded/${policy}`;
        const all: [string, string][] = [...Object.entries(headers), ["x-forwarded-method", method]];
        const http = await new HttpCheck(validate, policies).check({ path, method: "GET", headers: all }, true, 0);
        return [response.status?.code, http.status];
      };
      expect(await status("namedcors")).toEqual([0, 200]);
      expect(await status("namedcors", "GET")).toEqual([3, 400]);
      expect(await status("named")).toEqual([3, 400]);
    });

    test("twice is malformed, though both are equal", async () => {
      const twice: [string, string][] = [
        ["x-organization", "blue"],
        ["x-organization", "blue"],
      ];
      expect((await overHttp(twice)).status).toBe(400);
      expect(asked).toBeUndefined();
    });
  });

  test("an outage is an error to Envoy only if the policy says so", async () => {
    const response = await check(saying({ verdict: "UNDETERMINED" }), message(bearer, { policy: "open" }));
    expect(response.httpResponse.case).toBe("errorResponse");
  });
});

describe("never errors: every failure is a denial", () => {
  const failing: [string, Validate][] = [
    [
      "throws",
      () => {
        throw new Error("x");
      },
    ],
    ["rejects", () => Promise.reject(new Error("x"))],
  ];
  test.each(failing)("a judgement that %s", async (_, validate) => {
    const response = await check(validate, message(bearer));
    expect([response.status?.code, response.httpResponse.case]).toEqual([14, "deniedResponse"]);
  });

  test("malformed bytes, a check without a request, and a peer that is not allowed are denied", async () => {
    expect((await check(saying({ snapshot }), Buffer.from([0xff, 0xff]))).status?.code).toBe(3);
    expect((await check(saying({ snapshot }), new Uint8Array(0))).status?.code).toBe(3);
    expect((await check(saying({ snapshot }), message(bearer), false)).status?.code).toBe(7);
  });
});

describe("a header of the policy's own is a carrier", () => {
  /** Answers any bearer, as if it were cached: it must not be asked where another header can hold a second credential. */
  const known: ValidateKnown = () => ({ verdict: "ALLOW", tier: "l1", snapshot });
  let asked: string | undefined;
  const validate: Validate = (text) => {
    asked = text;
    return { verdict: "ALLOW", tier: "l1", snapshot };
  };
  const both = async (headers: [string, string][], policy = "git") => {
    asked = undefined;
    const list = headers.map(([key, value]) => ({ key, value }));
    const http = { method: "GET", headerMap: { headers: list } };
    const attributes = { request: { http }, contextExtensions: { policy } };
    const bytes = toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes }));
    const grpc = fromBinary(
      CheckResponseSchema,
      (await new ExtAuthz(validate, policies, known).check(bytes, true, 0)).bytes,
    );
    const lower = headers.map(([name, value]): [string, string] => [name.toLowerCase(), value]);
    const question = { path: `/v1/check/envoy/${policy}`, method: "GET", headers: lower };
    return { grpc, http: await new HttpCheck(validate, policies).check(question, true, 0) };
  };

  test.each(["private-token", "Job-Token", "PRIVATE-TOKEN"])(
    "%s: the whole value is the token string",
    async (name) => {
      const { grpc, http } = await both([[name, SECRET]]);
      expect([grpc.status?.code, http.status, asked]).toEqual([0, 200, SECRET]);
      const removed = ["authorization", "private-token", "job-token"];
      expect(grpc.httpResponse.case === "okResponse" && grpc.httpResponse.value.headersToRemove).toEqual([
        "x-auth-tenants",
        ...removed,
      ]);
      expect(Object.fromEntries(http.headers)["x-envoy-auth-headers-to-remove"]).toBe(removed.join(","));
    },
  );

  test.each<[string, [string, string][]]>([
    [
      "it twice",
      [
        ["private-token", SECRET],
        ["private-token", SECRET],
      ],
    ],
    [
      "it beside a bearer",
      [
        ["authorization", `Bearer ${SECRET}`],
        ["private-token", SECRET],
      ],
    ],
    [
      "it beside the other one",
      [
        ["private-token", SECRET],
        ["job-token", SECRET],
      ],
    ],
    ["two values in it", [["private-token", `${SECRET},${SECRET}`]]],
    ["more than 8 KiB in it", [["private-token", "a".repeat(8_193)]]],
  ])("%s is malformed", async (_, headers) => {
    const { grpc, http } = await both(headers);
    expect([grpc.status?.code, http.status, asked]).toEqual([3, 400, undefined]);
  });

  test("to any other policy it is a header of the upstream", async () => {
    const alone = await both([["private-token", SECRET]], "api");
    expect([alone.grpc.status?.code, alone.http.status, asked]).toEqual([16, 401, undefined]);
    const beside = await both(
      [
        ["authorization", `Bearer ${SECRET}`],
        ["private-token", SECRET],
      ],
      "api",
    );
    expect([beside.grpc.status?.code, beside.http.status]).toEqual([0, 200]);
  });

  test("without another carrier the challenge has no parameters", async () => {
    const only = new Policies({ only: { ...settings, carriers: ["header:private-token"] } });
    const question = { path: "/v1/check/envoy/only", method: "GET", headers: [] };
    const response = await new HttpCheck(validate, only).check(question, true, 0);
    expect(Object.fromEntries(response.headers)["www-authenticate"]).toBe('ApiKey realm="api"');
  });
});

describe("HTTP check", () => {
  const ask = (path: string, headers: [string, string][], validate: Validate = saying({ snapshot })) =>
    new HttpCheck(validate, policies).check({ path, method: "GET", headers }, true, 0);
  const auth: [string, string] = ["authorization", `Bearer ${SECRET}`];

  test("200 carries all five identity headers, also those that the policy omits", async () => {
    const { status, headers, body } = await ask("/v1/check/envoy/renamed/a/../b?x=/v1/check/envoy/api", [auth]);
    expect([status, body]).toEqual([200, ""]);
    expect(Object.fromEntries(headers)).toMatchObject({
      "x-user": "user:ann",
      "x-auth-principal": "-",
      "x-auth-tenant": "-",
    });
    expect(Object.fromEntries(headers)["x-envoy-auth-headers-to-remove"]).toBe("authorization,x-api-key");
  });

  test.each([
    ["envoy", { verdict: "UNDETERMINED" }, 403, "503"],
    ["original", { verdict: "UNDETERMINED" }, 403, "503"],
    ["forwarded", { verdict: "UNDETERMINED" }, 503, undefined],
    ["original", { verdict: "RATE_LIMITED", snapshot }, 403, "429"],
    ["envoy", { verdict: "RATE_LIMITED", snapshot }, 429, undefined],
    ["original", { verdict: "INVALID_TOKEN" }, 401, undefined],
    ["envoy", { verdict: "INSUFFICIENT_SCOPE", snapshot }, 403, undefined],
  ] as const)("family %s: %o goes out as %i, x-auth-status %s", async (family, answer, status, real) => {
    const sentBack = await ask(`/v1/check/${family}/api`, [auth], saying(answer));
    expect(sentBack.status).toBe(status);
    expect(Object.fromEntries(sentBack.headers)["x-auth-status"]).toBe(real);
    expect(Object.fromEntries(sentBack.headers)["cache-control"]).toBe("no-store");
    expect(Buffer.byteLength(sentBack.body)).toBeLessThanOrEqual(512);
  });

  test("an unknown family or policy is 403; two credentials and a repeated proxy header are 400", async () => {
    for (const path of ["/v1/check/other/api", "/v1/check/envoy/nope", "/v1/check/", "/v1/check/envoy"]) {
      expect((await ask(path, [auth])).status).toBe(path === "/v1/check/envoy" ? 403 : 403);
    }
    expect((await ask("/v1/check/envoy/api", [auth, ["x-api-key", "b"]])).status).toBe(400);
    const twice: [string, string][] = [["x-forwarded-uri", "/a"], ["x-forwarded-uri", "/b"], auth];
    expect((await ask("/v1/check/forwarded/api", twice)).status).toBe(400);
  });

  test("the client's address comes from the family's own header, and the other family's are ignored", async () => {
    const seen: string[] = [];
    const validate: Validate = (_token, _requirement, { clientAddress }) => {
      seen.push(clientAddress);
      return { verdict: "INVALID_TOKEN", tier: "none" };
    };
    const forged: [string, string][] = [["x-real-ip", "1.1.1.1"], ["x-forwarded-for", "2.2.2.2, 3.3.3.3"], auth];
    for (const family of ["original", "forwarded", "envoy"]) await ask(`/v1/check/${family}/api`, forged, validate);
    expect(seen).toEqual(["1.1.1.1", "3.3.3.3", ""]);
  });
});

describe("the fast path for a cached token", () => {
  const decided = (scopes: readonly string[], address: string): ValidationResult => {
    if (scopes.includes("more")) return { verdict: "INSUFFICIENT_SCOPE", tier: "l1", snapshot };
    if (address === "192.0.2.66") return { verdict: "INVALID_TOKEN", reason: "revoked", tier: "l1" };
    return { verdict: "ALLOW", tier: "l1", snapshot };
  };
  const validate: Validate = (text, { scopes }, { clientAddress }) =>
    text === SECRET ? decided(scopes, clientAddress) : { verdict: "INVALID_TOKEN", reason: "unknown", tier: "none" };

  test("answers like the slow path, whatever the request holds", async () => {
    let short = 0;
    const known: ValidateKnown = (bytes, from, to, { scopes }, { clientAddress }) => {
      if (Buffer.from(bytes).toString("latin1", from, to) !== SECRET) return undefined;
      short++;
      return decided(scopes, clientAddress);
    };
    const credentials = [
      ...[`Bearer ${SECRET}`, `bearer ${SECRET}`, `Bearer  ${SECRET}`, `Bearer ${SECRET} `, ` Bearer ${SECRET}`],
      ...[`Bearer ${SECRET},`, `Bearer ${SECRET},Bearer ${SECRET}`, `Bearer ${SECRET}x`, "Bearer ", "Bearer", "", "é"],
      ...[`Basic ${Buffer.from(`x:${SECRET}`).toString("base64")}`, `bearer\r${SECRET}`, SECRET],
    ];
    const one = fc.record({
      key: fc.constantFrom(
        ...["authorization", "Authorization", "x-api-key", "content-type", "origin", "cookie"],
        ...["private-token", "Private-Token", "job-token"],
      ),
      value: fc.oneof(
        { weight: 3, arbitrary: fc.constant(`Bearer ${SECRET}`) },
        fc.constantFrom(...credentials),
        fc.constantFrom("application/grpc", "application/grpc+proto", "text/html"),
      ),
      raw: fc.boolean(),
    });
    const requests = fc.record({
      method: fc.constantFrom("GET", "OPTIONS", "é"),
      list: fc.array(one, { minLength: 1, maxLength: 3 }),
      mapped: fc.boolean(),
      address: fc.constantFrom("203.0.113.9", "192.0.2.66", ""),
      extensions: fc.record(
        {
          policy: fc.constantFrom("api", "git", "renamed", "cors", "default", "unknown"),
          required_scopes: fc.constantFrom("more", "", "é"),
        },
        { requiredKeys: [] },
      ),
    });
    const ways = [new ExtAuthz(validate, policies, known), new ExtAuthz(validate, policies)];
    await fc.assert(
      fc.asyncProperty(requests, async ({ method, list, mapped, address, extensions }) => {
        const headers = list.map(({ key, value, raw }) =>
          raw ? { key, rawValue: Buffer.from(value, "latin1") } : { key, value },
        );
        const http = mapped
          ? { method, headerMap: { headers } }
          : { method, headers: Object.fromEntries(list.map(({ key, value }) => [key, value])) };
        const source = { address: { address: { case: "socketAddress" as const, value: { address } } } };
        const attributes = { source, request: { http }, contextExtensions: extensions as Record<string, string> };
        const bytes = toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes }));
        const [a, b] = await Promise.all(ways.map((way) => way.check(bytes, true, 0)));
        expect(Buffer.from(a!.bytes).toString("hex")).toBe(Buffer.from(b!.bytes).toString("hex"));
      }),
      { numRuns: 3_000 },
    );
    expect(short).toBeGreaterThan(100);
  });
});
