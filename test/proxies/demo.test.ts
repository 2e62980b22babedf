import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";

test("npm run demo shows a token that passes, its revocation, and the refusal of the next request", async () => {
  const argv = [join(import.meta.dirname, "../../scripts/demo.ts"), "--yes"];
  const { stdout } = await promisify(execFile)(process.execPath, argv, { timeout: 120_000 });
  const answers = [...stdout.matchAll(/^ {3}(\d{3}) .*$/gm)].map(([line]) => line.trim());
  expect(answers).toEqual([
    '401 Unauthorized  www-authenticate: Bearer realm="sallyport"',
    "200 OK  hello user:ann",
    '401 Unauthorized  www-authenticate: Bearer realm="sallyport", error="invalid_token"',
  ]);
  expect(stdout).toMatch(/RevokeToken answers OK: ACKED, in force everywhere after \d+ ms/);
  expect(stdout).not.toMatch(/\bsp_[a-z]+_/);
}, 150_000);
