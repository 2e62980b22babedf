import { expect, test } from "vitest";
import type { AuditAct } from "../../src/domain/audit-event.ts";
import type { Access } from "../../src/management/access.ts";
import { DenialAudit } from "../../src/rpc/denial-audit.ts";

const by = (tenant: string): Access =>
  ({ caller: { tenant, principal: "bot:x", provenance: "token:x", scopes: [] }, reach: "own", requestId: "" }) as never;

/** Denials by a clock that stands still. */
function denials() {
  const clock = { now: 5_000, mono: () => clock.now, wall: () => 0 };
  const acts: AuditAct[] = [];
  let counted = 0;
  const audit = { append: async (_: unknown, act: AuditAct) => void acts.push(act), list: async () => ({ rows: [] }) };
  const events = { audited: () => counted++, trouble: () => {} };
  const denials = new DenialAudit({ audit, clock, events: events as never });
  const deny = (tenant: string, times = 1) => {
    for (let i = 0; i < times; i++) denials.record(by(tenant), "s/M", "CALLER_FORBIDDEN");
  };
  const rows = (tenant: string) => acts.filter((act) => act.tenant === tenant);
  return { clock, acts, deny, rows, counted: () => counted };
}

test("many refusals of one tenant leave room for the rows of others", () => {
  const { deny, rows, acts, counted } = denials();
  deny("noisy", 1_000);
  expect(rows("noisy")).toHaveLength(10);
  deny("quiet", 3);
  deny("", 2);
  expect(rows("quiet")).toHaveLength(3);
  expect(rows("default")).toHaveLength(2);
  expect(acts[0]).toMatchObject({ action: "caller.denied", target: "rpc:s/M", outcome: "DENIED" });
  expect(counted()).toBe(1_005);
});

test("each second has a new budget, and its first row counts the refusals without a row", () => {
  const { clock, deny, rows } = denials();
  deny("noisy", 15);
  deny("calm", 10);
  clock.now += 1_000;
  deny("noisy", 2);
  deny("calm");
  expect(rows("noisy").map(({ metadata }) => metadata)).toEqual([
    ...Array(10).fill({ reason: "CALLER_FORBIDDEN" }),
    { reason: "CALLER_FORBIDDEN", unaudited: "5" },
    { reason: "CALLER_FORBIDDEN" },
  ]);
  expect(rows("calm").at(-1)?.metadata).toEqual({ reason: "CALLER_FORBIDDEN" });
});

test("all tenants together have a limit, half of it for tenants without a row in this second", () => {
  const { clock, acts, deny, rows } = denials();
  for (let i = 0; i < 8; i++) deny(`noisy${i}`, 1_000);
  expect(Array.from({ length: 8 }, (_, i) => rows(`noisy${i}`).length)).toEqual([10, 10, 5, 1, 1, 1, 1, 1]);
  clock.now += 1_000;
  const before = acts.length;
  for (let i = 0; i < 10_000; i++) deny(`many${i}`);
  expect(acts.length - before).toBe(50);
});
