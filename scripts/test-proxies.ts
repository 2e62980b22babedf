// `npm run test:proxies`: the files of deploy/proxies on the real proxy programs, in front of the real Sallyport.
// Missing programs are fetched; a suite whose program is unavailable is skipped, with the reason. Ends with one plain
// line. Further arguments go to vitest: `npm run test:proxies -- caddy`. PROXY_ROUNDS shortens revocations.
import { spawn } from "node:child_process";
import { mkdir, readFile, rm } from "node:fs/promises";
import { fetchProgram } from "./fetch.ts";

const REPORT = ".cache/test-proxies.json";

await mkdir(".cache", { recursive: true });
await rm(REPORT, { force: true });
// Before any test runs, because a fetch takes longer than a test may. A failure is reported where its suite is skipped.
for (const name of ["envoy", "caddy", "caddy-debian", "nginx", "haproxy"] as const) {
  await fetchProgram(name).catch(() => {});
}
const flags = ["--config", "test/proxies/vitest.config.ts", "--reporter=default", "--reporter=json"];
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
  for (const test of skipped) console.log(`skipped: ${test.fullName}`);
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
