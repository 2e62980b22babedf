import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { TestSallyport } from "../support/sallyport.ts";

/** An instance that never learns of a revocation. */
const liar = createServer((request, response) => {
  request.resume().on("end", () => {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ verdict: "VERDICT_ALLOW" }));
  });
});

let first: TestSallyport;
let second: TestSallyport;
beforeAll(async () => {
  await new Promise<void>((resolve) => liar.listen(0, "127.0.0.1", resolve));
  first = await TestSallyport.start();
  const peers = [
    first.listeners.data,
    `http://127.0.0.1:${(liar.address() as AddressInfo).port}`,
    "http://127.0.0.1:9",
  ];
  const { database, keyring } = first;
  second = await TestSallyport.start({ database, keyring, config: { canary: { every: "1s", peers } } });
});
afterAll(async () => {
  await second?.stop();
  await first?.stop();
  liar.close();
});

test("the canary sees every instance refuse the token that it revoked, and raises an alarm for one that does not", async () => {
  const metric = async (outcome: string) => {
    const text = await (await fetch(`${second.listeners.ops}/metrics`)).text();
    return Number(new RegExp(`^sallyport_canary_total\\{outcome="${outcome}"\\} (\\d+)`, "m").exec(text)?.[1] ?? 0);
  };
  // This instance and the other one refuse; the liar accepts; the last address has no listener.
  await vi.waitFor(async () => expect(await metric("accepted")).toBeGreaterThan(0), { timeout: 20_000, interval: 200 });
  expect(await metric("refused")).toBeGreaterThanOrEqual(2);
  expect(await metric("not_reached")).toBeGreaterThan(0);
  expect(second.program.out).toMatch(/"event":"revoked_token_accepted","alarm":true/);
});
