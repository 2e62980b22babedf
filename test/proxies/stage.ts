import { afterAll, beforeAll, describe, expect } from "vitest";
import { arrived, type Header, type Reply } from "./ask.ts";
import type { Edge } from "./edge.ts";
import { find, titled } from "./programs.ts";
import { REALM, SCOPE, Scene } from "./scene.ts";
import type { Options, Suite } from "./suites.ts";

/** What a case works with. */
export interface Stage {
  readonly scene: Scene;
  readonly edge: Edge;
  /** The same proxy with a changed file, for as long as `work` runs. */
  changed<T>(options: Options, work: (edge: Edge) => Promise<T>): Promise<T>;
}

export const IDENTITY = ["x-auth-principal", "x-auth-tenant", "x-auth-token-id", "x-auth-scopes", "x-auth-profile"];
export const FORGED = [...IDENTITY, "x-auth-status", "x-auth-other", "x-envoy-auth-failure-mode-allowed"];
const forgedNames = (spell: (name: string) => string): Header[] => FORGED.map((name) => [spell(name), "forged"]);
export const forged: readonly Header[] = [...forgedNames((name) => name), ...forgedNames((name) => name.toUpperCase())];
/** To CGI they are all the same name. */
export const underscored = [
  ...forgedNames((name) => name.replaceAll("-", "_")),
  ...forgedNames((name) => name.replace("-", "_")),
  ...forgedNames((name) => name.replace(/-(?=[^-]*$)/, "_")),
];

const found = new Map<string, Awaited<ReturnType<typeof find>>>();

export async function prepare(its: Suite): Promise<void> {
  found.set(its.program, await find(its.program));
}

export function describeWith(title: string, its: Suite, cases: (stage: () => Stage) => void): void {
  const program = found.get(its.program)!;
  describe.skipIf(program.why !== undefined)(titled(title, program), () => {
    let stage: Stage;
    beforeAll(async () => {
      const scene = await Scene.start();
      const edge = await its.start(program.path, scene);
      const changed: Stage["changed"] = async (options, work) => {
        const other = await its.start(program.path, scene, options);
        try {
          return await work(other);
        } finally {
          await other.stop();
        }
      };
      stage = { scene, edge, changed };
    });
    afterAll(async () => {
      await stage?.edge.stop();
      await stage?.scene.stop();
    });
    cases(() => stage);
  });
}

export const challengeOf = (reply: Reply) => reply.headers.get("www-authenticate") ?? [];

/** Refused by Sallyport or for it: the upstream saw nothing, nothing of an identity is told, nobody may keep it. */
export function expectDenied(reply: Reply, status: number, challenge?: string): void {
  expect([reply.status, reply.seen]).toEqual([status, undefined]);
  expect(challengeOf(reply)).toEqual(challenge === undefined ? [] : [challenge]);
  expect(reply.headers.get("cache-control")).toEqual(["no-store"]);
  expect([...reply.headers.keys()].filter((name) => IDENTITY.includes(name))).toEqual([]);
}

export const REFUSED = {
  none: `Bearer realm="${REALM}"`,
  invalid: `Bearer realm="${REALM}", error="invalid_token"`,
  scope: `Bearer realm="${REALM}", error="insufficient_scope", scope="${SCOPE}"`,
  malformed: `Bearer realm="${REALM}", error="invalid_request"`,
};

/** The five names say what Sallyport said, once each; of the other forged ones arrive only those in `passes`. */
export function expectOurs(reply: Reply, passes: readonly string[]): void {
  expect(reply.status).toBe(200);
  for (const name of IDENTITY) {
    const values = arrived(reply, name);
    expect(values, name).toHaveLength(1);
    expect(values, name).not.toContain("forged");
  }
  expect(arrived(reply, "x-auth-principal")).toEqual(["user:ann"]);
  for (const name of FORGED.filter((of) => !IDENTITY.includes(of) && !passes.includes(of)))
    expect(arrived(reply, name), name).toEqual([]);
}
