import { keepsMessage, type Routes, type UnaryRoute } from "../http2/unary/routes.ts";
import type { Tracing } from "../telemetry/tracing.ts";

/** The routes with a span for each call whose `traceparent` is sampled. Without traces, the routes themselves. */
export function tracedRoutes(routes: Routes, tracing: Tracing | undefined): Routes {
  if (tracing === undefined) return routes;
  return {
    ...routes,
    exact: new Map([...routes.exact].map(([path, route]) => [path, traced(path.slice(1), route, tracing)])),
    prefix: routes.prefix.map(([start, route]) => [start, traced(start.slice(1), route, tracing)]),
  };
}

function traced(name: string, route: UnaryRoute, tracing: Tracing): UnaryRoute {
  const { handler } = route;
  // The wrapper is not async, so its message would not be one to keep. Only the long poll keeps its own.
  if (keepsMessage(handler)) return route;
  return {
    ...route,
    handler(message, call) {
      const traceparent = call.metadata("traceparent");
      const span = traceparent === undefined ? undefined : tracing.sampled(name, traceparent);
      if (span === undefined) return handler(message, call);
      return tracing.within(span, () => {
        try {
          const reply = handler(message, call);
          if (!(reply instanceof Promise)) span.end();
          else
            void reply.then(
              () => span.end(),
              () => span.end(true),
            );
          return reply;
        } catch (error) {
          span.end(true);
          throw error;
        }
      });
    },
  };
}
