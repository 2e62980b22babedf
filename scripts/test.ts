// `npm test`: every suite that needs no proxy binary, on a real PostgreSQL and a real Redis. Ends with one plain line.
// Arguments go to vitest. With CI set and no argument, failed files run once more at the end, when the machine is less
// busy; files that pass only then are named.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, rm } from "node:fs/promises";

const REPORT = ".cache/test.json";
const given = process.argv.slice(2);

const first = await run(given);
const files = [...new Set(first.failed.flatMap(({ file }) => file ?? []))];
const whole = process.env["CI"] !== undefined && given.length === 0;
const again = whole && files.length > 0 ? await run(files) : undefined;
const failed = again?.failed ?? first.failed;
for (const name of first.skipped) console.log(`skipped: ${name}`);
if (again !== undefined) {
  const still = new Set(failed.map(({ name }) => name));
  for (const { name } of first.failed) if (!still.has(name)) console.log(`passed at the second try only: ${name}`);
}
for (const { name, message } of failed) console.log(`failed: ${name}: ${message}`);
const passed = first.passed + first.failed.length - failed.length;
console.log(`${passed} passed, ${failed.length} failed, ${first.skipped.length} skipped`);
if (failed.length > 0 || passed === 0) process.exitCode = 1;

interface Outcome {
  readonly passed: number;
  readonly skipped: readonly string[];
  readonly failed: readonly Failure[];
}

/** A failed test, or a file that cannot run at all: it has no tests and counts as one. */
interface Failure {
  readonly file?: string;
  readonly name: string;
  readonly message: string;
}

async function run(args: readonly string[]): Promise<Outcome> {
  await rm(REPORT, { force: true });
  const vitest = spawn("vitest", ["run", "--reporter=default", "--reporter=json", `--outputFile=${REPORT}`, ...args], {
    stdio: "inherit",
  });
  let code: unknown;
  try {
    [code] = await once(vitest, "close");
  } catch (error) {
    return broken(`vitest cannot be started: ${(error as Error).message}; run npm ci first`);
  }
  let report: Report;
  try {
    report = JSON.parse(await readFile(REPORT, "utf8")) as Report;
  } catch {
    return broken("vitest ended without a report");
  }
  const tests = report.testResults.flatMap(({ name: file, assertionResults }) =>
    assertionResults.map((test) => ({ ...test, file })),
  );
  const failed = tests
    .filter(({ status }) => status === "failed")
    .map((test): Failure => ({ file: test.file, name: test.fullName, message: line(test.failureMessages?.[0]) }));
  for (const { name: file, status, message } of report.testResults) {
    if (status === "failed" && !failed.some((test) => test.file === file)) {
      failed.push({ file, name: file, message: line(message) });
    }
  }
  // An error outside of any test gives vitest another exit code than failed tests do.
  if (code !== 0 && failed.length === 0) failed.push(...broken(`vitest ended with code ${String(code)}`).failed);
  return {
    passed: report.numPassedTests,
    failed,
    skipped: tests.filter(({ status }) => ["pending", "skipped", "todo"].includes(status)).map((test) => test.fullName),
  };
}

function broken(message: string): Outcome {
  return { passed: 0, skipped: [], failed: [{ name: "npm test", message }] };
}

function line(text = ""): string {
  return text.split("\n")[0]!.slice(0, 300);
}

interface Report {
  readonly numPassedTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages?: readonly string[];
    }[];
  }[];
}
