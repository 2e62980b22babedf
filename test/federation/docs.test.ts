import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { EXCHANGE_OUTCOMES } from "../../src/domain/exchange.ts";
import { cli } from "../cli/peer.ts";
import { TestSallyport } from "../support/sallyport.ts";

const PAGE = readFileSync(join(import.meta.dirname, "../../docs/federation.md"), "utf8");
const blocks = (language: string) =>
  [...PAGE.matchAll(new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\``, "gm"))].map(([, text]) => text!);
const CREATE = blocks("sh").flatMap((text) =>
  text.split("\n").filter((line) => line.startsWith("sallyport rules create")),
);

let one: TestSallyport;
beforeAll(async () => {
  const [config = ""] = blocks("yaml");
  one = await TestSallyport.start({ config: parse(config) as Record<string, unknown> });
  await one.registered("bot:deployer");
});
afterAll(() => one?.stop());

test.each(CREATE)("the page's line is carried out: %s", async (line) => {
  const argv = line.split(" ").slice(1);
  const env = { SALLYPORT_TOKEN: one.adminToken };
  const { exit, err } = await cli([...argv, "--address", one.listeners.admin], { env });
  expect(exit, err).toBe(0);
  const { rule } = await one.admin.federation.getTrustRule({ name: argv[2]! });
  expect(rule?.match.length).toBeGreaterThan(0);
});

test("the page has a rule for each kind", () => expect(CREATE).toHaveLength(4));

test("the page explains every outcome of an exchange, and no other", () => {
  const table = PAGE.slice(PAGE.indexOf("## Refusals"));
  const rows = table.split("\n").filter((line) => line.startsWith("| `"));
  const named = rows.flatMap((row) => [...row.split("|")[1]!.matchAll(/`(\w+)`/g)].map(([, name]) => name!));
  expect(named.sort()).toEqual([...EXCHANGE_OUTCOMES].sort());
});
