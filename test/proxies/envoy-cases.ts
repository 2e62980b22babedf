import { expect, test } from "vitest";
import { ask, bearer, UPSTREAM } from "./ask.ts";
import type { Change } from "./edge.ts";
import { failing, restarts, telling } from "./envoy-failures.ts";
import { headers } from "./envoy-headers.ts";
import { protocols } from "./envoy-protocols.ts";
import { REALM, SCOPE } from "./scene.ts";
import { expectDenied, expectOurs, forged, REFUSED, type Stage } from "./stage.ts";
import type { Suite } from "./suites.ts";

/** What is Envoy's alone, of both ways to ask. */
export function envoyCases(its: Suite, stage: () => Stage): void {
  headers(its, stage);
  failing(its, stage);
  protocols(its, stage);
  telling(stage);
  restarts(stage);
}

/** What only the gRPC form can: requirements by route. */
export function merging(stage: () => Stage): void {
  test("the context extensions of a route add to the requirement", async () => {
    const { changed, scene } = stage();
    const { good, admin, poor } = scene.tokens;
    const direct = `              - name: direct
                match: { prefix: /direct }
                direct_response: { status: 200, body: { inline_string: "direct" } }
                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    check_settings:
                      context_extensions: { required_scopes: "items.read", audience: "https://other.example", realm: "direct" }
`;
    const anchor = "              - name: admin #";
    await changed({ changes: [[anchor, direct + anchor]] }, async ({ port }) => {
      const as = (path: string, token: string) => ask(port, { path, headers: [bearer(token)] });
      expect((await as("/admin", admin)).seen?.url).toBe("/admin");
      const asked = `Bearer realm="${REALM}", error="insufficient_scope", scope="${SCOPE} items.write admin"`;
      expectDenied(await as("/admin", good), 403, asked);
      expectDenied(await as("/admin", poor), 403, asked);
      // The route's audience replaces the policy's, and so does its realm.
      const answered = await as("/direct", scene.tokens.elsewhere);
      expect([answered.status, answered.text, answered.headers.has(UPSTREAM)]).toEqual([200, "direct", false]);
      expect((await as("/direct", good)).status).toBe(200); // names no audience: good everywhere
      expectDenied(await as("/direct", "nonsense"), 401, `Bearer realm="direct", error="invalid_token"`);
    });
  });
}

const OVER_HTTP1: Change[] = [
  [/ {4}typed_extension_protocol_options: # over HTTP\/2[\s\S]*?(?= {4}circuit_breakers)/g, ""],
  [/ {4}health_checks:[\s\S]*?(?= {4}load_assignment)/g, ""],
];

/** What only the HTTP form can: policies by URL. */
export function byUrl(stage: () => Stage): void {
  test("the URL of a route selects its policy, and the rest of the path cannot select another", async () => {
    const { edge, scene } = stage();
    const as = (path: string, token: string) => ask(edge.port, { path, headers: [bearer(token)] });
    expect((await as("/admin/admin/x", scene.tokens.admin)).status).toBe(200);
    const asked = `Bearer realm="${REALM}", error="insufficient_scope", scope="${SCOPE} items.write admin"`;
    expectDenied(await as("/admin/x", scene.tokens.good), 403, asked);
    const direct = (path: string) =>
      ask(scene.dataPort, { path: `/v1/check/envoy/admin${path}`, headers: [bearer(scene.tokens.good)] });
    for (const path of [
      "",
      "/",
      "/../default",
      "/../default/x",
      "/..%2fdefault",
      "?/../default",
      "//default",
      "/%2e%2e/default",
    ])
      expect([path, (await direct(path)).status]).toEqual([path, 403]);
  });

  test("gives an Envoy that asks over HTTP/1.1 the same answers", async () => {
    const { changed, scene } = stage();
    await changed({ changes: OVER_HTTP1 }, async ({ port }) => {
      const as = (token: string) => ask(port, { headers: [...forged, bearer(token)] });
      for (let i = 0; i < 20; i++) expectOurs(await as(scene.tokens.good), []);
      expectDenied(await as(scene.tokens.bad), 401, REFUSED.invalid);
      expectDenied(await as(scene.tokens.poor), 403, REFUSED.scope);
      const posted = await ask(port, {
        method: "POST",
        headers: [bearer(scene.tokens.good)],
        body: Buffer.alloc(100_000),
      });
      expect([posted.status, posted.seen?.bytes]).toEqual([200, 100_000]);
    });
  });
}
