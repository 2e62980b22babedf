import { afterAll, beforeAll, expect, test } from "vitest";
import { TestIssuer } from "../sessions/issuer.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { FORGERIES } from "./forged.ts";
import { exchange, PLATFORMS, type PlatformName, ruleFor, TestPlatform } from "./platforms.ts";

let platform: TestPlatform;
let one: TestSallyport;
const rules = {} as Record<PlatformName, string>;
beforeAll(async () => {
  platform = new TestPlatform(await TestIssuer.open());
  one = await TestSallyport.start({ config: platform.config });
  await one.registered("bot:ci");
  for (const name of Object.keys(PLATFORMS) as PlatformName[]) rules[name] = (await ruleFor(one, name)).id;
});
afterAll(async () => {
  await one?.stop();
  await platform?.issuer.close();
});

async function outcomes(): Promise<Map<string, number>> {
  const text = await (await fetch(`${one.listeners.ops}/metrics`)).text();
  const lines = [...text.matchAll(/^sallyport_exchanges_total\{outcome="(\w+)"\} (\d+)$/gm)];
  return new Map(lines.map(([, name, count]) => [name!, Number(count)]));
}

const bodies = new Set<string>();

test.each(FORGERIES.map((one) => [one.title, one] as const))("%s is refused", async (_, { name, refused, make }) => {
  const before = await outcomes();
  const { status, text } = await exchange(one, rules[name], await make(platform));
  bodies.add(`${status} ${text}`);
  const after = await outcomes();
  expect([...after].filter(([outcome, count]) => count !== before.get(outcome)).map(([outcome]) => outcome)).toEqual([
    refused,
  ]);
});

test("all of them, and rules that do not exist, get one body, and none is minted", async () => {
  expect(FORGERIES.length).toBeGreaterThanOrEqual(40);
  expect(new Set(FORGERIES.map(({ title }) => title)).size).toBe(FORGERIES.length);
  for (const rule of ["trr_0000000000000000000000", "trr_", "x", rules.github.toLowerCase()]) {
    const { status, text } = await exchange(one, rule, await platform.jwt("github"));
    bodies.add(`${status} ${text}`);
  }
  expect(bodies.size).toBe(1);
  expect([...bodies][0]).toContain('"error":"invalid_grant"');
  const made = await one.sql("select id from sallyport.tokens where created_by like 'rule:%'");
  expect(made).toEqual([]);
});

test("their true reasons are in the log, and no JWT is", async () => {
  await expect.poll(() => one.program.out).toContain('"code":"malformed"');
  expect(one.program.out).not.toMatch(/eyJ[\w-]{10}/);
});
