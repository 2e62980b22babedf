import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { builtConsole, DIST } from "../../scripts/console-build.ts";

test("the committed files are those that a build makes, byte for byte, and at most 90 KB packed", async () => {
  let packed = 0;
  for (const [name, bytes] of await builtConsole()) {
    expect(Buffer.compare(readFileSync(new URL(name, DIST)), bytes), name).toBe(0);
    packed += gzipSync(bytes, { level: 9 }).length;
  }
  expect(packed).toBeLessThanOrEqual(90 * 1024);
});
