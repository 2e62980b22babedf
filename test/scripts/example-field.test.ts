import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "../..");
const PATCH = join(ROOT, "test/support/example-field.patch");

/** The files that a contributor edits by hand; `npm run generate` makes the rest. */
const BY_HAND = [
  "proto/sallyport/v1/token_admin.proto",
  "src/domain/token.ts",
  "src/postgres/migrations/0027_ticket.sql",
  "src/postgres/rows.ts",
  "src/management/token-manager.ts",
  "src/rpc/convert.ts",
  "src/cli/token-fields.ts",
  "test/postgres/rows.test.ts",
  "docs/concepts.md",
];

test("a new token field edits nine files by hand, and the example of it still applies", () => {
  const patch = readFileSync(PATCH, "utf8");
  const edited = [...patch.matchAll(/^\+\+\+ b\/(.+)$/gm)].map(([, file]) => file);
  expect(edited.sort()).toEqual([...BY_HAND].sort());
  execFileSync("git", ["apply", "--check", PATCH], { cwd: ROOT });
});

test("the recipe in CONTRIBUTING.md names each of these files", () => {
  const text = readFileSync(join(ROOT, "CONTRIBUTING.md"), "utf8");
  const recipe = /\*\*A token field\*\*[\s\S]*?\n\n/.exec(text)?.[0] ?? "";
  const named = BY_HAND.map((file) => (file.includes("/migrations/") ? "src/postgres/migrations/" : file));
  expect(named.filter((file) => !recipe.includes(`\`${file}\``))).toEqual([]);
});
