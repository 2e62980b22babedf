import { defineConfig } from "vitest/config";

// biome-ignore lint/style/noDefaultExport: vitest reads it so
export default defineConfig({
  test: {
    root: new URL("../..", import.meta.url).pathname,
    include: ["test/console/**/*.test.ts"],
    globalSetup: ["test/support/postgres-global.ts"],
    retry: process.env["CI"] === undefined ? 0 : 2,
    pool: "forks",
    maxWorkers: 1,
    testTimeout: 60_000,
    hookTimeout: 90_000,
  },
});
