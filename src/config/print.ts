import { durationText } from "../domain/duration.ts";
import type { Config } from "./schema.ts";

/** The effective configuration, with every secret replaced by `[secret]`. */
export function redacted(config: Config): unknown {
  const copy = structuredClone(config) as Config;
  if (copy.keyring !== undefined) for (const kid of Object.keys(copy.keyring.keys)) copy.keyring.keys[kid] = "[secret]";
  if (copy.signing !== undefined) for (const id of Object.keys(copy.signing.keys)) copy.signing.keys[id] = "[secret]";
  if (copy.break_glass.secret !== undefined) copy.break_glass.secret = "[secret]";
  for (const section of [copy.database, copy.journal, copy.redis] as Record<string, unknown>[]) {
    for (const key of ["url", "direct_url"]) {
      const url = section[key];
      if (typeof url === "string") section[key] = withoutPassword(url);
    }
  }
  return written(copy);
}

/**
 * A connection URL without its password, which stands before the last @ (the password itself may hold one) or in the
 * query.
 */
function withoutPassword(url: string): string {
  const user = url.indexOf("//") + 2;
  const colon = url.indexOf(":", user);
  const host = url.lastIndexOf("@");
  const held = user > 1 && colon >= 0 && colon < host;
  const shown = held ? `${url.slice(0, colon + 1)}[secret]${url.slice(host)}` : url;
  return shown.replace(/([?&][^=&]{0,64}password=)[^&]*/gi, "$1[secret]");
}

const DURATIONS = new Set([
  "ttl",
  "negative_ttl",
  "lease",
  "poll",
  "every",
  "idle_timeout",
  "idle",
  "max_ttl",
  "default_ttl",
  "max_age",
  "clock_skew",
]);

/** Values as a person would write them: durations with a unit, file modes in octal. */
function written(value: unknown, key = "", parent = ""): unknown {
  if (typeof value === "number") {
    if (key === "unix_mode") return `0${value.toString(8)}`;
    return DURATIONS.has(key) || parent === "scope_ceilings" ? durationText(value) : value;
  }
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((one) => written(one, key, parent));
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, written(inner, name, key)]));
}
