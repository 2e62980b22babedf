// `npm run demo`: a token passes a real Envoy, is revoked, and is refused by the next request. Everything lives in a temporary
// folder and on free ports; nothing is left behind. Runs until Ctrl+C.
//   --yes   revokes without waiting for Enter and ends; so does a start without a terminal
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline/promises";
import { parseArgs } from "node:util";
import { deployed, type Edge, freePort, startEdge } from "../test/proxies/edge.ts";
import { FREE_PORTS, folder, listenersOf, Program, writeConfig } from "../test/support/program.ts";
import { fetchProgram } from "./fetch.ts";

const { values } = parseArgs({ options: { yes: { type: "boolean", default: false } } });
const asks = !values.yes && process.stdin.isTTY === true && process.stdout.isTTY === true;
const [bold, plain] = process.stdout.isTTY && !process.env["NO_COLOR"] ? ["\x1b[1m", "\x1b[22m"] : ["", ""];

const place = folder();
const data = join(place.path, "data");
let isInterrupted = false;
const interrupted = once(process, "SIGINT").then(() => {
  isInterrupted = true;
});
const upstream = createServer((request, response) => response.end(`hello ${request.headers["x-auth-principal"]}\n`));
upstream.listen(0, "127.0.0.1");
say("Starting PostgreSQL, Sallyport, a service and Envoy (the first time, Envoy is fetched: 37 MB) …");
const begun = performance.now();
const config = writeConfig(place.path, { listeners: FREE_PORTS, log: { level: "warn" } });
const sallyport = new Program(["serve", "--config", config, "--data", data]);
let envoy: Edge | undefined;
try {
  const listeners = await listenersOf(sallyport);
  const admin = adminClient(listeners.admin);
  const { tokenString, token } = await admin("CreateToken", {
    profile: "pat",
    principal: "user:ann",
    displayName: "demo",
  });
  const file = join(place.path, "demo.token");
  writeFileSync(file, tokenString, { mode: 0o600 });
  await settle(admin);
  const front = await proxy(Number(new URL(listeners.data).port));
  envoy = front.envoy;
  say(`Ready after ${((performance.now() - begun) / 1000).toFixed(1)} s.\n`);

  say(`${bold}1. A request without a token${plain}`);
  await show(front.url);
  say(`${bold}2. A request with the token of user:ann${plain}`);
  await show(front.url, file);
  if (asks) {
    const terminal = createInterface(process.stdin, process.stdout);
    await Promise.race([terminal.question("Press Enter to revoke the token. "), interrupted]);
    terminal.close();
  }
  say(`${bold}3. The token is revoked${plain}`);
  const { effect } = await admin("RevokeToken", { id: token.id, reason: "demo" });
  say(
    `   RevokeToken answers OK: ${effect.mode.replace("EFFECT_MODE_", "")}, in force everywhere after ${(Number.parseFloat(effect.waited) * 1000).toFixed(0)} ms\n`,
  );
  say(`${bold}4. The same request again${plain}`);
  const status = await show(front.url, file);
  say(status === 401 ? "The token is refused, with every cache on." : `Expected 401: ${status}. This is a fault.`);
  process.exitCode = status === 401 ? 0 : 1;
  if (asks) {
    say(`\nConsole ${listeners.admin}/console/`);
    say(`Admin ${listeners.admin}   Data ${listeners.data}   Ops ${listeners.ops}\nPress Ctrl+C to end.`);
    await interrupted;
  }
} catch (error) {
  // Ctrl+C reaches Sallyport and Envoy too, so that what waits for them fails.
  if (!isInterrupted) say(`The demo failed: ${(error as Error).message}`);
  process.exitCode = isInterrupted ? 130 : 1;
} finally {
  await envoy?.stop();
  sallyport.kill("SIGINT");
  await sallyport.exited;
  upstream.close();
  place.remove();
}

/** Calls of the admin listener as the first administrator. */
function adminClient(url: string) {
  return async (method: string, body: object) => {
    const response = await fetch(`${url}/sallyport.v1.TokenAdmin/${method}`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${readFileSync(join(data, "admin-token"), "utf8").trim()}`,
        "content-type": "application/json",
      },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`${method}: ${response.status} ${await response.text()}`);
    return (await response.json()) as Reply;
  };
}

/** The fields that the demo reads of the replies of CreateToken and RevokeToken. */
interface Reply {
  readonly tokenString: string;
  readonly token: { readonly id: string };
  readonly effect: { readonly mode: string; readonly waited: string };
}

/**
 * Revokes a token that nobody uses. The first revocation after a start of the database waits until every lease of its
 * earlier life is over (docs/protocol.md §4.5); the one to be shown should take what a revocation takes.
 */
async function settle(admin: ReturnType<typeof adminClient>): Promise<void> {
  const { token } = await admin("CreateToken", { profile: "pat", principal: "user:ann", displayName: "first" });
  await admin("RevokeToken", { id: token.id });
}

/** Envoy in front of the service; the HTTP check itself where there is no Envoy. */
async function proxy(authorizer: number): Promise<{ url: string; envoy?: Edge }> {
  const program = await fetchProgram("envoy").catch((error: Error) => error);
  if (program instanceof Error) {
    say(`No Envoy here (${program.message}): the requests go to the HTTP check, as nginx would ask it.`);
    return { url: `http://127.0.0.1:${authorizer}/v1/check/envoy/default` };
  }
  const [port, own] = [await freePort(), await freePort()];
  const text = deployed("envoy-grpc.yaml", [
    ["port_value: 8000", `port_value: ${port}`],
    ["port_value: 9901", `port_value: ${own}`],
    ["port_value: 7400", `port_value: ${authorizer}`],
    ["port_value: 8080", `port_value: ${(upstream.address() as AddressInfo).port}`],
  ]);
  const argv = ["-c", "envoy.yaml", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"];
  const envoy = await startEdge({ program, argv, files: { "envoy.yaml": text }, port });
  const url = `http://127.0.0.1:${port}/`;
  // Envoy refuses with 503 until its first health check of Sallyport.
  for (let tries = 0; tries < 100 && (await fetch(url)).status === 503; tries++)
    await new Promise((r) => setTimeout(r, 100));
  return { url, envoy };
}

/** Prints a request as curl would make it, makes it, and prints the answer. */
async function show(url: string, file?: string): Promise<number> {
  say(`   curl -i ${url}${file === undefined ? "" : ` -H "authorization: Bearer $(cat ${file})"`}`);
  const headers = file === undefined ? {} : { authorization: `Bearer ${readFileSync(file, "utf8")}` };
  const response = await fetch(url, { headers });
  const body = (await response.text()).trim();
  const challenge = response.headers.get("www-authenticate");
  say(`   ${response.status} ${response.statusText}  ${response.ok ? body : `www-authenticate: ${challenge}`}\n`);
  return response.status;
}

function say(text: string): void {
  console.log(text);
}
