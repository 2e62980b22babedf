import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts", "clients/typescript/test/**/*.test.ts"],
    exclude: ["test/proxies/**", "test/console/**", "test/chart/**", "node_modules/**"],
    globalSetup: ["test/support/postgres-global.ts"],
    // Real processes on a shared machine: what passes alone is tried again where nobody watches, and said so.
    retry: process.env["CI"] === undefined ? 0 : 2,
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
