// `npm test`: every suite that needs no proxy binary, on a real PostgreSQL and a real Redis. Ends with one plain line.
import { spawn } from "node:child_process";

const program = spawn(
  "vitest",
  ["run", "--reporter=default", "--reporter=json", "--outputFile=.cache/test.json", ...process.argv.slice(2)],
  {
    stdio: "inherit",
  },
);
program.on("error", (error) => {
  console.error(`vitest can not be started: ${error.message}; run npm ci first`);
  process.exitCode = 1;
});
program.on("close", async (code) => {
  const { readFile } = await import("node:fs/promises");
  let report: Report;
  try {
    report = JSON.parse(await readFile(".cache/test.json", "utf8")) as Report;
  } catch {
    console.log("0 passed, 1 failed, 0 skipped");
    process.exitCode = code || 1;
    return;
  }
  const skipped = report.testResults.flatMap((file) =>
    file.assertionResults.filter(({ status }) => status === "pending" || status === "skipped" || status === "todo"),
  );
  for (const test of skipped) console.log(`skipped: ${test.fullName}`);
  // A file that could not be run at all has no tests that failed: it counts as one.
  const broken = report.testResults.filter(
    (file) => file.status === "failed" && !file.assertionResults.some(({ status }) => status === "failed"),
  );
  for (const file of broken) console.log(`failed to run: ${file.name}: ${file.message.split("\n")[0]}`);
  console.log(
    `${report.numPassedTests} passed, ${report.numFailedTests + broken.length} failed, ${skipped.length} skipped`,
  );
  process.exitCode = code ?? 1;
});

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[];
  }[];
}
