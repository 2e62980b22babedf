import { defineConfig } from "vitest/config";

// biome-ignore lint/style/noDefaultExport: vitest reads it so
export default defineConfig({
  test: {
    root: new URL("../..", import.meta.url).pathname,
    include: ["test/chart/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 1,
    testTimeout: 120_000,
  },
});
