import { execFile } from "node:child_process";
import { cp, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ExamplePage, ExampleService } from "../support/example.ts";
import { folder, ROOT } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";

/* The example of the TypeScript client with the built package, as a reader of its page runs it. */
const PACKAGE = join(ROOT, "clients/typescript");
const place = folder();
let sallyport: TestSallyport;
let example: ExampleService;
beforeAll(async () => {
  await promisify(execFile)(process.execPath, [join(ROOT, "node_modules/typescript/bin/tsc"), "-p", PACKAGE]);
  // The files of the package as npm copies them, and beside them its dependencies from the main folder: no network.
  await cp(join(ROOT, "examples/node"), join(place.path, "node"), {
    recursive: true,
    filter: (file) => !file.endsWith("/node_modules"),
  });
  const installed = join(place.path, "node/node_modules/sallyport-client");
  await mkdir(installed, { recursive: true });
  const { files } = JSON.parse(await readFile(join(PACKAGE, "package.json"), "utf8")) as { files: string[] };
  for (const file of ["package.json", ...files])
    await cp(join(PACKAGE, file), join(installed, file), { recursive: true });
  for (const name of ["@grpc", "@bufbuild"])
    await symlink(join(ROOT, "node_modules", name), join(installed, "..", name));
  sallyport = await TestSallyport.start();
  const page = new ExamplePage("node", sallyport, [
    ["127.0.0.1:7400", new URL(sallyport.listeners.data).host],
    ["node examples/node/", `${process.execPath} ${place.path}/node/`],
    ["orders.token", `${place.path}/orders.token`],
  ]);
  example = await ExampleService.start(page);
});
afterAll(async () => {
  example?.kill();
  await sallyport?.stop();
  place.remove();
});

test("the lines of the page: a token is admitted, revoked and refused", async () => {
  const { said, stated } = await example.follow();
  expect(stated).toEqual(["order 7 for user:ann", "UNAUTHENTICATED INVALID_TOKEN"]);
  expect(said).toEqual(stated);
});

test("a token without the scope is refused", async () => {
  const { tokenString } = await sallyport.createToken({ scopes: ["stock.read"] });
  const file = join(place.path, "narrow.token");
  await writeFile(file, tokenString);
  expect(await example.ask(`node examples/node/client.js PORT ${file}`)).toEqual([
    "PERMISSION_DENIED INSUFFICIENT_SCOPE",
  ]);
});

test("the example ends in good order", async () => {
  expect(await example.stop()).toEqual([0, null]);
});
