import pg from "pg";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { freshDatabase, hasPostgres, startServer, type ThrowawayServer } from "./postgres.ts";

async function ask(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client(url);
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query({ text: sql, rowMode: "array" })).rows.flat();
  } finally {
    await client.end();
  }
}

describe("freshDatabase", () => {
  test("a template is created once, however many ask for it, and each gets its own copy", async () => {
    let made = 0;
    const template = async (url: string) => {
      made++;
      await ask(url, "create table seen as select 1 as n");
    };
    const databases = await Promise.all(Array.from({ length: 4 }, () => freshDatabase({ template, name: "once" })));
    expect(made).toBe(1);
    await ask(databases[0]!.url, "delete from seen");
    expect(await ask(databases[1]!.url, "select n from seen")).toEqual([1]);
    await Promise.all(databases.map((one) => one.drop()));
    await expect(ask(databases[0]!.url, "select 1")).rejects.toThrow(/does not exist/);
  });

  test("a template that fails is tried again by the next, and no half of it is copied", async () => {
    const broken = async (url: string) => {
      await ask(url, "create table half (n int)");
      throw new Error("half way");
    };
    await expect(freshDatabase({ template: broken, name: "broken" })).rejects.toThrow("half way");
    const database = await freshDatabase({
      template: (url) => ask(url, "create table whole (n int)").then(() => {}),
      name: "broken",
    });
    expect(await ask(database.url, "select relname from pg_class where relname in ('half', 'whole')")).toEqual([
      "whole",
    ]);
    await database.drop();
  });
});

describe.each([15, 18] as const)("startServer, PostgreSQL %i", (major) => {
  describe.skipIf(!hasPostgres(major))("where it is installed", () => {
    let server: ThrowawayServer;
    beforeAll(async () => {
      server = await startServer({ major });
    });
    afterAll(() => server?.remove());

    test("it is that version, with fsync, and comes back on the same URL with its data after kill -9", async () => {
      expect(String(await ask(server.url, "show server_version"))).toMatch(new RegExp(`^${major}`));
      expect(await ask(server.url, "show fsync")).toEqual(["on"]);
      await ask(server.url, "create table kept as select 7 as n");
      const before = server.pid();
      await server.kill9();
      await expect(ask(server.url, "select 1")).rejects.toThrow();
      await server.restart();
      expect(server.pid()).not.toBe(before);
      expect(await ask(server.url, "select n from kept")).toEqual([7]);
    });

    test("a standby follows it, refuses writes, and becomes a primary when promoted", async () => {
      const standby = await server.standby();
      onTestFinished(() => standby.remove());
      await ask(server.url, "create table followed as select 8 as n");
      await expect
        .poll(() => ask(standby.url, "select n from followed").catch(() => []), { timeout: 10_000 })
        .toEqual([8]);
      await expect(ask(standby.url, "delete from followed")).rejects.toThrow(/read-only/);
      await server.stop();
      expect(await ask(standby.url, "select pg_promote()")).toEqual([true]);
      expect(await ask(standby.url, "insert into followed values (9) returning n")).toEqual([9]);
      await server.restart();
    });
  });
});
