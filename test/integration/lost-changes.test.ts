import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { byHand, digestOf, makeTokens, tokenId } from "../postgres/migrated.ts";
import { FREE_PORTS, folder, freshKeyring, ROOT, run, writeConfig } from "../support/program.ts";
import { migratedDatabase } from "../support/sallyport.ts";

/** The commands of the page for operators, in its order, without the word `sallyport`. */
const COMMANDS = [
  ...readFileSync(join(ROOT, "docs/backup-and-failover.md"), "utf8").matchAll(/^ *sallyport (reconcile.*)$/gm),
].map(([, words]) => [...words!.matchAll(/"([^"]*)"|\S+/g)].map(([word, quoted]) => quoted ?? word));

test("the commands of the page for operators do what it says", { timeout: 120_000 }, async () => {
  const place = folder();
  onTestFinished(() => place.remove());
  const database = await migratedDatabase();
  onTestFinished(() => database.drop());
  const sql = await byHand(database.url);
  await makeTokens(sql, 3);
  const narrowed = JSON.stringify({ id: tokenId(1), narrowed: { scopes: [] } });
  await sql.query(`select sallyport.lost_report('e', '{900,901,902}', $1, '{1,2,3}', '{lowered,other,revoked}', $2)`, [
    [`t${digestOf(1)}`, "*", `t${digestOf(3)}`].map((key) => Buffer.from(key, "latin1")),
    [narrowed, null, JSON.stringify({ id: tokenId(3), by: "user:ann", reason: "" })],
  ]);
  for (let redone: string | null = ""; redone !== null; ) {
    redone = (await sql.query("select sallyport.lost_redo() as done")).rows[0].done;
  }
  const disabled = async () =>
    (await sql.query("select disabled from sallyport.tokens where id = $1", [tokenId(1)])).rows[0].disabled;
  expect(await disabled()).toBe(true);

  const config = writeConfig(place.path, {
    listeners: FREE_PORTS,
    database: { allow_fsync_off: true },
    keyring: freshKeyring(),
  });
  const env = { DATABASE_URL: database.url };
  const done = [];
  for (const words of COMMANDS) {
    const { code, out, err } = await run([...words, "--config", config], env);
    const states = out.split("\n").flatMap((line) => (line === "" ? [] : [line.split("\t").slice(0, 2).join(" ")]));
    done.push([words.slice(0, 3).join(" "), code, states]);
    expect(err, words.join(" ")).toMatch(code === 0 ? /^$/ : /^sallyport: \d lost changes wait/);
  }
  expect(done).toEqual([
    ["reconcile --all", 1, ["1 held", "2 held", "3 applied"]],
    ["reconcile", 1, ["1 held", "2 held"]],
    ["reconcile --apply 1", 1, [expect.stringContaining("stays disabled"), "2 held"]],
    ["reconcile --dismiss 2", 0, []],
  ]);
  expect(await disabled()).toBe(true);

  const wrong = [
    ["--apply", "9"],
    ["--apply", "x"],
    ["--dismiss", "2"],
    ["--apply", "1", "--dismiss", "2", "--reason", "x"],
  ];
  const codes = wrong.map(async (words) => (await run(["reconcile", ...words, "--config", config], env)).code);
  expect(await Promise.all(codes)).toEqual([1, 2, 2, 2]);
});
