import { createHash, randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { arrived, ask, bearer, type Header } from "./ask.ts";
import { freePort } from "./edge.ts";
import { failures, revocation } from "./failures.ts";
import { SCOPE } from "./scene.ts";
import { describeWith, expectDenied, expectOurs, FORGED, forged, REFUSED, type Stage, underscored } from "./stage.ts";
import type { Suite } from "./suites.ts";

/** Runs the cases that hold for every proxy, then those of its own. */
export function suite(title: string, its: Suite, own: (stage: () => Stage) => void = () => {}): void {
  describeWith(title, its, (stage) => {
    core(its, stage);
    requests(stage);
    failures(its, stage);
    revocation(stage);
    own(stage);
  });
}

/** What an old version of a proxy must do, too. */
export function core(its: Suite, stage: () => Stage): void {
  answers(its, stage);
  identity(its, stage);
  credentials(its, stage);
}

function answers(its: Suite, stage: () => Stage): void {
  describe("answers as the page about proxies says", () => {
    const to = (headers: readonly Header[]) => ask(stage().edge.port, { headers });

    test("a good token is let through, in either carrier", async () => {
      const { good, near } = stage().scene.tokens;
      for (const header of [bearer(good), bearer(near), ["X-API-Key", good] as const]) {
        const reply = await to([header]);
        expect([reply.status, reply.seen?.url]).toEqual([200, "/"]);
      }
    });

    test("no credential: 401 with a challenge and no error", async () => {
      expectDenied(await to([]), 401, REFUSED.none);
    });

    test("a token that is not live, or of another audience: 401 invalid_token", async () => {
      const { bad, elsewhere } = stage().scene.tokens;
      for (const token of [bad, elsewhere, "nonsense"]) expectDenied(await to([bearer(token)]), 401, REFUSED.invalid);
    });

    test("a missing scope: 403 with the required scopes", async () => {
      expectDenied(await to([bearer(stage().scene.tokens.poor)]), 403, REFUSED.scope);
    });

    test("a token of another network: 403 without a challenge", async () => {
      expectDenied(await to([bearer(stage().scene.tokens.far)]), 403);
    });

    test("a malformed request: 400 invalid_request", async () => {
      expectDenied(await to([["Authorization", "Bearer a b"]]), 400, REFUSED.malformed);
    });

    test("an unknown policy: 403 without a challenge", async () => {
      const { changed, scene } = stage();
      const changes = [its.policy("nobody-has-it")];
      await changed({ changes }, async ({ port }) => {
        expectDenied(await ask(port, { headers: [bearer(scene.tokens.good)] }), 403);
      });
    });

    test("a data listener that does not trust its peers: 403, also with a good token", async () => {
      const { changed, scene } = stage();
      const dataPort = await freePort();
      const other = await scene.another(dataPort, false);
      try {
        await changed({ dataPort }, async ({ port }) => {
          expectDenied(await ask(port, { headers: [bearer(scene.tokens.good)] }), 403);
        });
      } finally {
        await other.halt();
        await other.dispose();
      }
    });

    test("an outage of PostgreSQL: 503 with retry-after, and normal answers once it is back", async () => {
      const { scene } = stage();
      const fresh = await scene.mint();
      await scene.weather.set({ kind: "refuse" });
      try {
        const reply = await to([bearer(fresh.tokenString)]);
        expectDenied(reply, 503);
        expect(reply.headers.get("retry-after")).toEqual(["1"]);
      } finally {
        await scene.weather.set({ kind: "pass" });
      }
      await scene.healed();
      expect((await to([bearer(fresh.tokenString)])).status).toBe(200);
    });
  });
}

function identity(its: Suite, stage: () => Stage): void {
  test("every identity header arrives", async () => {
    const { edge, scene } = stage();
    const reply = await ask(edge.port, { headers: [bearer(scene.tokens.good)] });
    expect(arrived(reply, "x-auth-principal")).toEqual(["user:ann"]);
    expect(arrived(reply, "x-auth-tenant")).toEqual(["default"]);
    expect(arrived(reply, "x-auth-token-id")).toEqual([expect.stringMatching(/^tok_[0-9A-Za-z]{22}$/)]);
    expect(arrived(reply, "x-auth-scopes")).toEqual([SCOPE]);
    expect(arrived(reply, "x-auth-profile")).toEqual(["pat"]);
    for (const carrier of ["authorization", "x-api-key"]) expect(arrived(reply, carrier)).toEqual([]);
    const byKey = await ask(edge.port, { headers: [["x-api-key", scene.tokens.good]] });
    for (const carrier of ["authorization", "x-api-key"]) expect(arrived(byKey, carrier)).toEqual([]);
    expect(JSON.stringify([reply.seen, byKey.seen])).not.toContain(scene.tokens.good);
  });

  describe("a forged identity never arrives", () => {
    test("with a good token", async () => {
      const { edge, scene } = stage();
      expectOurs(await ask(edge.port, { headers: [...forged, bearer(scene.tokens.good)] }), its.passes);
    });

    test("with a Connection header that names the identity headers", async () => {
      const { edge, scene } = stage();
      const named = ["x-auth-principal", "X-Auth-Tenant", "x-auth-token-id", "X-AUTH-SCOPES", "x-auth-profile"];
      const values = named.flatMap((name) => [name, `close, ${name}`, `${name}, keep-alive`, `upgrade, ${name}`]);
      for (const value of [...values, named.join(",")]) {
        const reply = await ask(edge.port, { headers: [["Connection", value], bearer(scene.tokens.good)] });
        expect([value, reply.status]).toEqual([value, 200]);
        expectOurs(reply, []);
        // Nor does it tell the service's own proxies and frameworks to drop one.
        expect(arrived(reply, "connection").join()).not.toMatch(/x-auth/i);
      }
      // Some proxies take out what it names before they ask: then there is no credential, and no answer but a denial.
      for (const value of ["close, authorization", "x-forwarded-uri, x-original-uri, x-real-ip"]) {
        const reply = await ask(edge.port, { headers: [["Connection", value], bearer(scene.tokens.good)] });
        if (reply.status === 200) expectOurs(reply, []);
        else
          expect([reply.status, reply.seen]).toEqual([expect.toSatisfy((status: number) => status < 500), undefined]);
      }
    });

    test("spelled with underscores", async () => {
      const { edge, scene } = stage();
      const reply = await ask(edge.port, { headers: [...underscored, bearer(scene.tokens.good)] });
      if (its.refusesUnderscores) expect([reply.status, reply.seen]).toEqual([400, undefined]);
      else expectOurs(reply, []);
    });

    test("with a bad token or none", async () => {
      const { edge, scene } = stage();
      expectDenied(await ask(edge.port, { headers: [...forged, bearer(scene.tokens.bad)] }), 401, REFUSED.invalid);
      expectDenied(await ask(edge.port, { headers: forged }), 401, REFUSED.none);
    });

    test("with an ALLOW that omits a header", async () => {
      const { changed, scene } = stage();
      await changed({ changes: [its.policy("lean")] }, async ({ port }) => {
        const reply = await ask(port, { headers: [...forged, bearer(scene.tokens.good)] });
        expect(reply.status).toBe(200);
        expect(["-", undefined]).toContain(arrived(reply, "x-auth-profile")[0]);
        for (const name of FORGED.filter((of) => !its.passes.includes(of)))
          expect(arrived(reply, name), name).not.toContain("forged");
      });
    });
  });
}

function credentials(its: Suite, stage: () => Stage): void {
  const pairs = (good: string, other: string): [string, Header[]][] => [
    ["repeated", [bearer(good), bearer(other)]],
    ["repeated and equal", [bearer(good), bearer(good)]],
    ["joined by a comma", [["Authorization", `Bearer ${good},Bearer ${other}`]]],
    ["in two carriers", [bearer(good), ["X-API-Key", other]]],
    ["in two carriers and equal", [bearer(good), ["X-API-Key", good]]],
    [
      "two keys",
      [
        ["X-API-Key", good],
        ["X-API-Key", other],
      ],
    ],
  ];

  test("two credentials are refused", async () => {
    const { edge, scene } = stage();
    const before = scene.upstream.count;
    for (const [what, headers] of pairs(scene.tokens.good, scene.tokens.admin)) {
      const reply = await ask(edge.port, { headers });
      expect([what, reply.status, reply.seen]).toEqual([what, 400, undefined]);
    }
    expect(scene.upstream.count).toBe(before);
  });

  test("bad bytes are a denial", async () => {
    const { edge, scene } = stage();
    const { good } = scene.tokens;
    const bad: [string, string][] = [
      ["Latin-1", "Bearer \xe9\xe8\xff"],
      ["a token and Latin-1", `Bearer ${good}\xe9`],
      ["empty", ""],
      ["a scheme alone", "Bearer"],
      ["8 KiB and one", `Bearer ${"x".repeat(8186)}`],
    ];
    for (const [what, value] of bad) {
      const reply = await ask(edge.port, { headers: [["Authorization", value]] });
      expect([400, 401], what).toContain(reply.status);
      expect(reply.seen, what).toBeUndefined();
    }
    const other: Header = ["x-note", "caf\xe9 \xff\xfe"];
    const reply = await ask(edge.port, { headers: [other, bearer(good)] });
    expect([reply.status, arrived(reply, "x-note")]).toEqual([200, [other[1]]]);
  });

  if (its.http) {
    test("the other family is ignored", async () => {
      const { edge, scene } = stage();
      const said = (address: string): Header[] => [
        ["X-Forwarded-For", address],
        ["X-Forwarded-Uri", "/v1/check/forwarded/lean"],
        ["X-Forwarded-Method", "OPTIONS"],
        ["X-Forwarded-Host", "evil.example"],
        ["X-Original-URL", "/public"],
        ["X-Original-URI", "/public"],
        ["X-Original-Method", "OPTIONS"],
        ["X-Real-IP", address],
        ["X-Envoy-External-Address", address],
        ["Forwarded", `for=${address}`],
      ];
      const as = (token: string, address: string, path = "/real") =>
        ask(edge.port, { path, headers: [...said(address), bearer(token)] });
      const near = await as(scene.tokens.near, "192.0.2.1");
      expect([near.status, near.seen?.url, near.seen?.method]).toEqual([200, "/real", "GET"]);
      expect((await as(scene.tokens.far, "192.0.2.1")).status).toBe(403);
      expect((await as(scene.tokens.poor, "127.0.0.1")).status).toBe(403);
    });
  }
}

function requests(stage: () => Stage): void {
  test("raw paths", async () => {
    const { edge, scene } = stage();
    const { good, admin, bad } = scene.tokens;
    const before = scene.upstream.count;
    let through = 0;
    const hostile = [
      "/a/../admin//x%2dy;p=1?q=2",
      "/a/%2e%2e/%2e%2e/x",
      "//x",
      "/x?token=1&policy=lean",
      "/..;/x",
      "/a%2fb",
    ];
    for (const path of hostile) {
      const denied = await ask(edge.port, { path, headers: [bearer(bad)] });
      const allowed = await ask(edge.port, { path, headers: [bearer(admin)] });
      // Envoy and HAProxy refuse some of them themselves.
      expect([400, 401], path).toContain(denied.status);
      expect([path, allowed.status]).toEqual([path, denied.status === 400 ? 400 : 200]);
      if (allowed.status === 200) through++;
    }
    expect((await ask(edge.port, { path: `/x?access_token=${good}` })).status).toBe(401);
    expect(scene.upstream.count).toBe(before + through);
  });

  test("POST, HEAD, chunked", async () => {
    const { edge, scene } = stage();
    const body = randomBytes(200_000);
    const sha256 = createHash("sha256").update(body).digest("hex");
    const headers = [bearer(scene.tokens.good)];
    for (const chunked of [false, true]) {
      const reply = await ask(edge.port, { method: "POST", path: "/up", headers, body, chunked });
      expect([reply.status, reply.seen?.method, reply.seen?.sha256]).toEqual([200, "POST", sha256]);
    }
    for (const method of ["HEAD", "DELETE", "PATCH", "OPTIONS"]) {
      expect([method, (await ask(edge.port, { method, headers })).status]).toEqual([method, 200]);
      expect([method, (await ask(edge.port, { method })).status]).toEqual([method, 401]);
    }
    const refused = await ask(edge.port, { method: "POST", body: body.subarray(0, 1_000) });
    expectDenied(refused, 401, REFUSED.none);
  });
}
