import { ALL_METHODS } from "../rpc/methods.ts";
import type { Peer } from "../rpc/peer.ts";

type Listener = Peer["listener"];

/** The pages that have no row in `rpc/methods.ts`. */
const PAGES: readonly (readonly [start: string, home: Listener])[] = [
  ["/openapi.json", "admin"],
  ["/console/", "admin"],
  ["/metrics", "ops"],
  ["/healthz", "ops"],
  ["/readyz", "ops"],
];

/** The listener of every service, endpoint and page, by the start of its path. */
const HOMES: readonly (readonly [start: string, home: Listener])[] = [
  ...ALL_METHODS.flatMap(({ start, listener }) => (listener === "every" ? [] : [[start, listener] as const])),
  ...PAGES,
];

/** The reason why a listener does not serve a path, without a byte of the path. */
export function whyUnknown(path: string, here: Listener): string {
  const found = HOMES.find(([start]) => path.startsWith(start));
  if (found === undefined || found[1] === here) return `the ${here} listener has no such method`;
  const [start, home] = found;
  const what = start.split("/").filter(Boolean).join("/");
  return `this is the ${here} listener; ${what} is on the ${home} listener`;
}
