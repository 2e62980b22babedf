// `npm run test:console`: the console in a real Chromium, on a real Sallyport. Without Chromium, Debian's is downloaded and
// installed if this machine lets us; else the suites are skipped and counted. Ends with one plain line. Arguments go to
// vitest: `npm run test:console -- secrets`.
import { execFile, spawn } from "node:child_process";
import { mkdir, readFile, rm } from "node:fs/promises";
import { promisify } from "node:util";
import { CHROMIUM } from "../test/console/browser.ts";

const REPORT = ".cache/test-console.json";
const exec = promisify(execFile);

await mkdir(".cache", { recursive: true });
await rm(REPORT, { force: true });
if (CHROMIUM === undefined && process.platform === "linux" && process.getuid?.() === 0) {
  const install = ["install", "-y", "--no-install-recommends", "chromium"];
  await exec("apt-get", install, { env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" } }).catch(
    (error: Error) => {
      console.log(`Chromium cannot be installed: ${error.message.split("\n")[0]}`);
    },
  );
}
const flags = ["--config", "test/console/vitest.config.ts", "--reporter=default", "--reporter=json"];
const program = spawn("vitest", ["run", ...flags, `--outputFile=${REPORT}`, ...process.argv.slice(2)], {
  stdio: "inherit",
});
program.on("error", (error) => {
  console.error(`vitest cannot be started: ${error.message}; run npm ci first`);
  process.exitCode = 1;
});
program.on("close", async (code) => {
  const report = await readFile(REPORT, "utf8").then(
    (text) => JSON.parse(text) as Report,
    () => undefined,
  );
  process.exitCode = code || (report === undefined ? 1 : 0);
  if (report === undefined) return console.log("0 passed, 1 failed, 0 skipped");
  const tests = report.testResults.flatMap((file) => file.assertionResults);
  const skipped = tests.filter(({ status }) => status === "pending" || status === "skipped" || status === "todo");
  if (skipped.length > 0 && CHROMIUM === undefined)
    console.log("skipped: there is no Chromium; set CHROMIUM, or install it");
  // A file that could not run at all has no failed tests, so it counts as one.
  const broken = report.testResults.filter(
    (file) => file.status === "failed" && !file.assertionResults.some(({ status }) => status === "failed"),
  );
  for (const file of broken) console.log(`failed to run: ${file.name}: ${file.message.split("\n")[0]}`);
  console.log(
    `${report.numPassedTests} passed, ${report.numFailedTests + broken.length} failed, ${skipped.length} skipped`,
  );
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
