import type { Edge } from "./edge.ts";

/** A counter of the filter. */
export async function counter(edge: Edge, name: string): Promise<number> {
  const text = await stats(edge, "ext_authz");
  return Number(new RegExp(`^http\\.edge\\.ext_authz\\.tokens\\.${name}: (\\d+)$`, "m").exec(text)?.[1] ?? 0);
}

/** Envoy's statistics that a filter matches, as text. */
export async function stats(edge: Edge, filter: string): Promise<string> {
  return (await fetch(`http://127.0.0.1:${edge.adminPort}/stats?filter=${filter}`)).text();
}
