// Adds the token field of test/support/example-field.patch to a copy of the repository, generates, checks the types and
// runs the test of the field there: proof that the nine files are enough. `npm run -s test:example-field`.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";

const root = join(import.meta.dirname, "..");
mkdirSync(join(root, ".cache"), { recursive: true });
const copy = mkdtempSync(join(root, ".cache/example-field-"));
const run = (command: string, ...args: string[]) => execFileSync(command, args, { cwd: copy, stdio: "inherit" });

try {
  const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], { cwd: root });
  for (const file of files.toString().trim().split("\n")) {
    mkdirSync(dirname(join(copy, file)), { recursive: true });
    cpSync(join(root, file), join(copy, file));
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  const migrations = join(copy, "src/postgres/migrations");
  const newest = Math.max(...readdirSync(migrations).map((name) => Number(name.slice(0, 4))));
  // A folder inside a repository: without --git-dir, git would apply the patch to the paths of that repository.
  run("git", "--git-dir=/dev/null", "apply", "test/support/example-field.patch");
  const [added] = readdirSync(migrations).filter((name) => name.endsWith("_ticket.sql"));
  const numbered = `${String(newest + 1).padStart(4, "0")}_ticket.sql`;
  renameSync(join(migrations, added!), join(migrations, numbered));
  run("npm", "run", "-s", "generate");
  run("npm", "run", "-s", "types");
  run("npx", "vitest", "run", "test/postgres/rows.test.ts", "test/management", "test/cli/tokens.test.ts");
} finally {
  rmSync(copy, { recursive: true, force: true });
}
