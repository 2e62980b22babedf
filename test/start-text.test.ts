import { expect, test } from "vitest";
import { ADMIN_ADDRESS, DATA_ADDRESS, EMBEDDED_TOKEN_FILE } from "../src/cli/connect.ts";
import { startText } from "../src/start-text.ts";

const embedded = { dataDir: "./data", adminTokenFile: EMBEDDED_TOKEN_FILE };
const started = {
  version: "1",
  seconds: 2,
  data: DATA_ADDRESS,
  admin: ADMIN_ADDRESS,
  ops: "http://127.0.0.1:7402",
  workers: 1,
  console: "http://127.0.0.1:7401/console/",
  embedded,
};

test("where the command line's defaults lead, nothing has to be exported; elsewhere just the difference", () => {
  expect(startText(started)).not.toContain("export");
  expect(startText({ ...started, admin: "http://127.0.0.1:1" })).toMatch(
    /^ {2}export SALLYPORT_ADDRESS=http:\/\/127\.0\.0\.1:1$/m,
  );
  expect(startText({ ...started, data: "http://127.0.0.1:2" })).toMatch(
    /^ {2}export SALLYPORT_DATA_ADDRESS=http:\/\/127\.0\.0\.1:2$/m,
  );
  const other = { dataDir: "/d", adminTokenFile: "/d/admin-token" };
  expect(startText({ ...started, embedded: other })).toMatch(
    /^ {2}export SALLYPORT_TOKEN="\$\(cat '\/d\/admin-token'\)"$/m,
  );
});

test("a start without an embedded database shows addresses and no commands", () => {
  const text = startText({ ...started, embedded: undefined });
  expect(text).toContain(`Admin    ${ADMIN_ADDRESS}`);
  expect(text).not.toContain("npm run");
});

test("the console's page comes first, with the file of the token that opens it; without a console no line names one", () => {
  expect(startText(started)).toMatch(
    /^ {2}Console {2}http:\/\/127\.0\.0\.1:7401\/console\/ {3}sign in with the token in data\/admin-token\n {2}Admin /m,
  );
  expect(startText({ ...started, embedded: undefined })).toMatch(/^ {2}Console {2}http:\S+$/m);
  expect(startText({ ...started, console: undefined })).not.toContain("Console");
});
