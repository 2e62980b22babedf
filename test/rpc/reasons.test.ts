import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { errorTable } from "../../src/rpc/errors.ts";
import { transportFailures, wireError } from "../../src/rpc/transport-errors.ts";

const ROOT = join(import.meta.dirname, "../..");
const sources = readdirSync(join(ROOT, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts") && !file.startsWith("gen/") && !file.startsWith("cli/"))
  .map((file) => ({ file, text: readFileSync(join(ROOT, "src", file), "utf8") }));

/** Reasons in the table of RPC errors. */
const documented = new Set(
  [...readFileSync(join(ROOT, "docs/errors.md"), "utf8").matchAll(/^\| `([A-Z_]+)` \| [A-Z_]+ \| \d{3} \|/gm)].map(
    (row) => row[1]!,
  ),
);

/** Literals that stand where a reason stands: in a new AppError, or as the value of `reason`. */
const emitted = (text: string): string[] =>
  [...text.matchAll(/\bAppError\(\s*"([A-Z_]+)"|\breason: "([A-Z_]+)"/g)].map((found) => (found[1] ?? found[2])!);

test("every reason that the source can emit is in docs/errors.md", () => {
  const unknown = sources.flatMap(({ file, text }) =>
    emitted(text)
      .filter((reason) => !documented.has(reason))
      .map((reason) => `${file}: ${reason}`),
  );
  expect(unknown).toEqual([]);
  expect(emitted('throw new AppError(\n  "NOBODY_KNOWS"')).toEqual(["NOBODY_KNOWS"]);
});

test("every reason of the table is named by source beside the table", () => {
  const others = sources.filter(({ file }) => !["domain/errors.ts", "rpc/errors.ts"].includes(file));
  const unused = errorTable().filter(({ reason }) => !others.some(({ text }) => text.includes(`"${reason}"`)));
  expect(unused).toEqual([]);
});

test("only the error table puts a reason on the wire", () => {
  expect(sources.filter(({ text }) => text.includes("ErrorInfoSchema")).map(({ file }) => file)).toEqual([
    "rpc/errors.ts",
  ]);
});

test.each(transportFailures())("the transport failure $failure is the reason $reason, with its code", (one) => {
  const error = wireError(one.failure, { requestId: "r1" });
  const info = { reason: one.reason, domain: "sallyport", metadata: { request_id: "r1" } };
  expect(error.findDetails(ErrorInfoSchema)).toMatchObject([info]);
  expect(errorTable()).toContainEqual(expect.objectContaining({ reason: one.reason, code: error.code }));
});
