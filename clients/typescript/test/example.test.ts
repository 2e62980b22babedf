import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TestSallyport } from "../../../test/support/sallyport.ts";

/* The example, as a user runs it: with the built package. */
const PACKAGE = join(import.meta.dirname, "..");
let sallyport: TestSallyport;
let example: ChildProcess;
let client: Client;
beforeAll(async () => {
  const tsc = join(PACKAGE, "../../node_modules/typescript/bin/tsc");
  await promisify(execFile)(process.execPath, [tsc, "-p", PACKAGE]);
  sallyport = await TestSallyport.start();
  const env = { ...process.env, SALLYPORT: new URL(sallyport.listeners.data).host };
  example = spawn(process.execPath, [join(PACKAGE, "examples/node/server.js")], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = (await once(createInterface({ input: example.stdout! }), "line")) as [string];
  client = new Client(`127.0.0.1:${JSON.parse(line).port}`, credentials.createInsecure());
});
afterAll(async () => {
  client?.close();
  example?.kill("SIGKILL");
  await sallyport?.stop();
});

function get(bearer: string): Promise<string> {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${bearer}`);
  return new Promise((resolve) =>
    client.makeUnaryRequest(
      "/shop.v1.Orders/Get",
      (id: string) => Buffer.from(id),
      (bytes: Buffer) => bytes.toString(),
      "7",
      metadata,
      (error, answer) => resolve(error === null ? answer! : `${error.code} ${error.metadata.get("sallyport-verdict")}`),
    ),
  );
}

test("the example serves a live token, and refuses others", async () => {
  const { tokenString, id } = await sallyport.createToken({ scopes: ["orders.read"] });
  expect(await get(tokenString)).toBe("order 7 for user:ann");
  const { tokenString: narrow } = await sallyport.createToken({ scopes: ["stock.read"] });
  expect(await get(narrow)).toBe("7 INSUFFICIENT_SCOPE");
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } });
  expect(await get(tokenString)).toBe("16 INVALID_TOKEN");
});

test("the example ends in good order", async () => {
  const ended = once(example, "exit");
  example.kill("SIGTERM");
  expect(await ended).toEqual([0, null]);
});
