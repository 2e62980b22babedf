import { defineConfig } from "vitest/config";

// biome-ignore lint/style/noDefaultExport: vitest reads it so
export default defineConfig({
  test: {
    root: new URL("../..", import.meta.url).pathname,
    include: ["test/proxies/**/*.test.ts"],
    globalSetup: ["test/support/postgres-global.ts"],
    pool: "forks",
    // Each suite has a proxy, a Sallyport and timing of its own: one after the other.
    maxWorkers: 1,
    testTimeout: 60_000,
    hookTimeout: 90_000,
  },
});
