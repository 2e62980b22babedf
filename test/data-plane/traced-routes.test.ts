import { expect, test } from "vitest";
import { tracedRoutes } from "../../src/data-plane/traced-routes.ts";
import type { Handler, UnaryCall, UnaryRoute } from "../../src/http2/unary/routes.ts";
import type { Tracing } from "../../src/telemetry/tracing.ts";

const REPLY = {} as ReturnType<Handler>;
const CALL = { metadata: () => "sampled" } as unknown as UnaryCall;

const fail = () => {
  throw new Error("x");
};

/** The traced route of a handler, and how its spans ended: true for failed. */
function traced(handler: Handler) {
  const ends: boolean[] = [];
  const span = { set: () => {}, end: (failed = false) => ends.push(failed) };
  const tracing = { sampled: () => span, within: (_: unknown, work: () => unknown) => work() } as unknown as Tracing;
  const route: UnaryRoute = { handler, maxMessage: 1, deadlineMs: 1 };
  const routes = tracedRoutes({ exact: new Map([["/x", route]]), prefix: [] }, tracing);
  return { route: routes.exact.get("/x")!, ends };
}

test.each<[string, Handler, boolean]>([
  ["returns", () => REPLY, false],
  ["throws", () => fail(), true],
  ["resolves", () => Promise.resolve(REPLY), false],
  ["rejects", () => Promise.reject(new Error("x")), true],
])("the span of a call whose handler %s ends once, failed or not as the call", async (_, handler, failed) => {
  const { route, ends } = traced(handler);
  const answer = (async () => route.handler(new Uint8Array(), CALL))();
  if (failed) await expect(answer).rejects.toThrow();
  else expect(await answer).toBe(REPLY);
  expect(ends).toEqual([failed]);
});

test("a handler that keeps its message is not wrapped", () => {
  const handler = async () => REPLY;
  expect(traced(handler).route.handler).toBe(handler);
});
