import type { Config } from "../config/schema.ts";

/** The configuration of one worker: that of the program with its share of caches and connections. */
export function shareOf(config: Config): Config {
  const { workers, cache, listeners, feed, canary } = config;
  const share = (whole: number) => Math.ceil(whole / workers);
  const { data } = listeners;
  return {
    ...config,
    mode: "validate",
    cache: { ...cache, l1: { entries: share(cache.l1.entries), bytes: share(cache.l1.bytes) } },
    listeners: { ...listeners, data: { ...data, max_connections: share(data.max_connections) } },
    feed: { ...feed, ...(feed.max_clients !== undefined && { max_clients: share(feed.max_clients) }) },
    canary: { ...canary, every: undefined },
  };
}

/** A worker's configuration after a reload, for a worker that starts later: what a reload takes is new, the rest stays. */
export function reloaded(before: Config, fresh: Config): Config {
  // The embedded database's own keys are in its folder, not in the configuration.
  const made = fresh.database.url === undefined && fresh.signing === undefined;
  return {
    ...before,
    policies: fresh.policies,
    keyring: fresh.keyring ?? before.keyring,
    signing: made ? before.signing : fresh.signing,
  };
}
