import { Agent, request } from "node:http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TestSallyport } from "../support/sallyport.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";

/** The distance to the database, so that a read outlives callers with a deadline of 10 ms. */
const AWAY_MS = 20;

let sallyport: TestSallyport;
let far: TestSallyport;
let proxy: TcpProxy;
const agent = new Agent({ keepAlive: true, maxSockets: 64 });
beforeAll(async () => {
  sallyport = await TestSallyport.start();
  const { database, keyring } = sallyport;
  const url = new URL(database.url);
  proxy = await startTcpProxy({ port: Number(url.port), host: url.hostname });
  const through = new URL(url);
  through.port = String(proxy.port);
  far = await TestSallyport.start({
    database: { ...database, url: through.href },
    keyring,
    config: { database: { allow_fsync_off: true, direct_url: database.url } },
  });
});
afterAll(async () => {
  agent.destroy();
  await far?.stop();
  await proxy?.stop();
  await sallyport?.stop();
});

/** The verdict of Connect's JSON, or the HTTP status if there is none. */
function validate(tokenString: string, timeoutMs: number): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const asked = request(`${far.listeners.data}/sallyport.v1.TokenValidator/ValidateToken`, {
    method: "POST",
    agent,
    headers: { "content-type": "application/json", "connect-timeout-ms": String(timeoutMs) },
  });
  asked.on("error", reject);
  asked.on("response", (response) => {
    let text = "";
    response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
    response.on("end", () =>
      resolve((JSON.parse(text) as { verdict?: string }).verdict ?? String(response.statusCode)),
    );
  });
  asked.end(JSON.stringify({ tokenString }));
  return promise;
}

/** The server processes that serve the read connections. */
async function readers(): Promise<number[]> {
  const text =
    "select pid from pg_stat_activity where application_name = 'sallyport-read' and datname = current_database()";
  return (await sallyport.sql<{ pid: number }>(`${text} order by pid`)).map(({ pid }) => pid);
}

// A read has 400 ms. A machine that is too busy for that gets another try.
test("a caller that abandons its read takes no connection from the others", { retry: 3 }, async () => {
  await proxy.set({ kind: "pass" });
  const strings: string[] = [];
  for (let i = 0; i < 40; i++) strings.push((await sallyport.createToken({ displayName: `t${i}` })).tokenString);
  await validate(strings.pop()!, 2_000); // the connections exist
  await validate(strings.pop()!, 2_000);
  await proxy.set({ kind: "latency", ms: AWAY_MS });
  const before = await readers();
  const hasty: Promise<string>[] = [];
  const patient: Promise<string>[] = [];
  for (const [i, tokenString] of strings.entries()) {
    (i % 2 === 0 ? hasty : patient).push(validate(tokenString, i % 2 === 0 ? 10 : 2_000));
  }
  expect(new Set(await Promise.all(patient))).toEqual(new Set(["VERDICT_ALLOW"]));
  expect(new Set(await Promise.all(hasty))).not.toContain("VERDICT_ALLOW");
  expect(before.length).toBeGreaterThan(0);
  expect(await readers()).toEqual(before);
});
