import { expect, test } from "vitest";
import type { AccessUse } from "../../src/domain/access-event.ts";
import { NO_REQUIREMENT, type RequestContext } from "../../src/domain/decide.ts";
import { AccessAudit } from "../../src/validation/access-audit.ts";
import { snapshot } from "../support/token-snapshot.ts";

const PROFILES = new Map([
  ["bot", { accessAudit: "full" as const, accessAuditSample: 1 }],
  ["pat", { accessAudit: "sampled" as const, accessAuditSample: 0.25 }],
  ["svc", { accessAudit: "off" as const, accessAuditSample: 1 }],
]);

function audit(append: (rows: readonly AccessUse[]) => Promise<void>, profiles = PROFILES, chance = 0) {
  const dropped: [string, number][] = [];
  const troubles: string[] = [];
  let now = 1000;
  let random = chance;
  const access = new AccessAudit({
    store: { append },
    profiles,
    timers: { after: () => () => {} },
    events: {
      accessDropped: (reason, uses) => dropped.push([reason, uses]),
      trouble: (what) => troubles.push(what),
    },
    random: () => random,
    later: setImmediate,
    // The two clocks of a process tell different times.
    clock: { mono: () => now - 500 },
    now: () => now,
  });
  const record = access.recorder("data");
  const use = (profile: string, n: number, context: Partial<RequestContext> = {}) =>
    record?.(
      snapshot(n, { profile, id: `tok_${n}` }),
      "ALLOW",
      undefined,
      NO_REQUIREMENT,
      { clientAddress: "", ...context },
      now - 500,
    );
  return { access, use, dropped, troubles, tick: () => (now += 1), draw: (value: number) => (random = value) };
}

const target = (path: string) => ({ method: "GET", host: "a.example", path, workload: "spiffe://a/b" });

test("uses that are alike become one row with their number and the time of the latest", async () => {
  const rows: AccessUse[] = [];
  const { access, use, tick } = audit(async (some) => void rows.push(...some));
  use("bot", 1, { clientAddress: "203.0.113.7", target: target("/a?secret=1") });
  tick();
  use("bot", 1, { clientAddress: "203.0.113.7", target: target("/a?secret=2") });
  use("bot", 1, { clientAddress: "203.0.113.7", target: target("/b#c") });
  use("bot", 2, { clientAddress: "not one", target: target("/a") });
  use("svc", 3);
  await access.flush();
  expect(rows.map(({ path, uses, address, time }) => [path, uses, address, time])).toEqual([
    ["/a", 2, "203.0.113.7", 1001],
    ["/b", 1, "203.0.113.7", 1001],
    ["/a", 1, "", 1001],
  ]);
  expect(rows[0]).toMatchObject({ method: "GET", host: "a.example", workload: "spiffe://a/b", listener: "data" });
  await access.flush();
  expect(rows).toHaveLength(3);
});

test("a profile that is sampled records its part, and nothing is called where every profile is off", async () => {
  const rows: AccessUse[] = [];
  const { access, use, draw } = audit(async (some) => void rows.push(...some));
  for (let i = 0; i < 100; i++) {
    draw(i / 100);
    use("pat", 1);
  }
  await access.stop();
  expect(rows.map(({ uses }) => uses)).toEqual([25]);
  const off = new Map([["bot", { accessAudit: "off" as const, accessAuditSample: 1 }]]);
  expect(audit(async () => {}, off as never).access.recorder("data")).toBeUndefined();
});

test("what exceeds the memory is dropped and counted, and what a flush took makes room", async () => {
  const sizes: number[] = [];
  const { access, use, dropped } = audit(async (rows) => void sizes.push(rows.length));
  for (let i = 0; i < 16_384 + 3; i++) use("bot", i);
  expect(dropped).toEqual(Array.from({ length: 3 }, () => ["full", 1]));
  await access.flush();
  expect(sizes.reduce((a, b) => a + b)).toBe(16_384);
  expect(Math.max(...sizes)).toBe(1000);
  use("bot", 1);
  await access.flush();
  expect(sizes.at(-1)).toBe(1);
  expect(dropped).toHaveLength(3);
});

test("what the database does not take is dropped and counted, and the next flush works", async () => {
  let calls = 0;
  const { access, use, dropped, troubles } = audit(async () => {
    if (++calls === 2) throw new Error("away");
  });
  for (let i = 0; i < 2500; i++) use("bot", i);
  use("bot", 2499);
  await Promise.all([access.flush(), access.flush()]);
  expect([dropped, troubles]).toEqual([[["database", 1501]], ["access_audit_failed"]]);
  use("bot", 1);
  await access.stop();
  expect(calls).toBe(3);
  expect(dropped).toHaveLength(1);
});

test("a long text is cut in memory, and a token string at the cut leaves nothing", async () => {
  const rows: AccessUse[] = [];
  const { access, use } = audit(async (some) => void rows.push(...some));
  const secret = `sp_pat_1${"aB3dE6gH".repeat(7)}xY`;
  use("bot", 1, { target: target(`/${"é".repeat(1900)}${secret}/${secret.slice(0, 20)}${"x".repeat(60_000)}`) });
  use("bot", 2, { target: { ...target("/"), host: "h".repeat(60_000), method: secret, workload: secret } });
  await access.flush();
  expect(rows[0]!.path).toBe("/[token]/…");
  expect(rows[1]!.host.length).toBeLessThanOrEqual(256);
  expect([rows[1]!.method, rows[1]!.workload]).toEqual(["[token]", "[token]"]);
});

test("a target that has a copy is kept by it, and one without is kept by its texts", async () => {
  const rows: AccessUse[] = [];
  const { access, use } = audit(async (some) => void rows.push(...some));
  const borrowed = { ...target("/before"), copy: () => target("/kept") };
  const long = { ...target("/long"), copy: () => undefined };
  use("bot", 1, { target: borrowed });
  use("bot", 2, { target: long });
  borrowed.path = long.path = "/after";
  await access.flush();
  expect(rows.map(({ path }) => path)).toEqual(["/kept", "/long"]);
});
