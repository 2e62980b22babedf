import { expect, test } from "vitest";
import { ALARMS, type CallLine, TROUBLES } from "../../src/telemetry/events.ts";
import { createTelemetry } from "../../src/telemetry/telemetry.ts";

const line = (more: Partial<CallLine>): CallLine => ({
  requestId: "r",
  method: "sallyport.v1.TokenAdmin/GetToken",
  code: "UNAUTHENTICATED",
  seconds: 0.001,
  level: "info",
  ...more,
});

const FREE = ["CALLER_UNAUTHENTICATED", "CALLER_FORBIDDEN", "ISSUER_UNAVAILABLE", "UNDECODABLE", "OVERLOADED"] as const;

test.each(FREE)(
  "refusals that cost a caller nothing are all counted, and ten a second are logged: %s",
  async (reason) => {
    const lines: string[] = [];
    const telemetry = createTelemetry("info", { write: (text) => void lines.push(text) });
    for (let i = 0; i < 1_000; i++) telemetry.called(line({ reason }));
    expect(lines.length).toBeGreaterThanOrEqual(10);
    expect(lines.length).toBeLessThanOrEqual(20); // where the machine is so slow that a second begins
    expect(await telemetry.registry.metrics()).toMatch(/sallyport_rpc_total\{.*UNAUTHENTICATED.*\} 1000/);
  },
);

test("a flood of one of them hides no other", () => {
  const lines: string[] = [];
  const telemetry = createTelemetry("info", { write: (text) => void lines.push(text) });
  for (let i = 0; i < 100; i++) telemetry.called(line({ reason: "CALLER_UNAUTHENTICATED" }));
  telemetry.called(line({ reason: "CALLER_FORBIDDEN" }));
  expect(JSON.parse(lines.at(-1)!)).toMatchObject({ reason: "CALLER_FORBIDDEN" });
});

test("calls of callers that are known are all logged", () => {
  const lines: string[] = [];
  const telemetry = createTelemetry("info", { write: (text) => void lines.push(text) });
  for (let i = 0; i < 50; i++) telemetry.called(line({ code: "OK", actor: "token:x" }));
  expect(lines).toHaveLength(50);
});

test("an issuer that is down hides no other", () => {
  const lines: string[] = [];
  const telemetry = createTelemetry("info", { write: (text) => void lines.push(JSON.parse(text).issuer) });
  for (const issuer of ["a", "a", "b", "a", "b"]) telemetry.trouble("issuer_unreachable", new Error("x"), { issuer });
  expect([...new Set(lines)]).toEqual(["a", "b"]);
  expect(lines.length).toBeLessThan(5);
});

test("the counter of every alarm and trouble is there from the start, with 0", async () => {
  const { registry } = createTelemetry("fatal", { write() {} });
  const text = await registry.metrics();
  for (const name of Object.keys(ALARMS)) expect(text).toContain(`sallyport_alarms_total{what="${name}"} 0\n`);
  for (const name of Object.keys(TROUBLES)) expect(text).toContain(`sallyport_troubles_total{what="${name}"} 0\n`);
});

test("an alarm, a trouble and a note have their identifier in the field event", async () => {
  const lines: Record<string, unknown>[] = [];
  const telemetry = createTelemetry("info", { write: (text) => void lines.push(JSON.parse(text)) });
  telemetry.alarm("reload_rejected", { problems: "x" });
  telemetry.trouble("poll_failed", new Error("secret"));
  telemetry.note("reloaded");
  telemetry.note("configuration_warning", { warning: "y" });
  expect(lines).toMatchObject([
    { level: "error", event: "reload_rejected", alarm: true, problems: "x", msg: ALARMS.reload_rejected },
    { level: "warn", event: "poll_failed", err: { class: "Error" }, msg: TROUBLES.poll_failed },
    { level: "info", event: "reloaded" },
    { level: "warn", event: "configuration_warning", warning: "y" },
  ]);
  expect(JSON.stringify(lines)).not.toContain("secret");
  expect(await telemetry.registry.metrics()).toContain('sallyport_alarms_total{what="reload_rejected"} 1');
});

test("a trouble logs one line a second for each listener, and counts all", async () => {
  const lines: string[] = [];
  const telemetry = createTelemetry("info", { write: (text) => void lines.push(text) });
  for (let i = 0; i < 500; i++) {
    for (const listener of ["data", "admin"]) telemetry.trouble("accept_failed", new Error(), { listener });
  }
  expect(lines.slice(0, 2).map((text) => JSON.parse(text).listener)).toEqual(["data", "admin"]);
  expect(lines.length).toBeLessThanOrEqual(6); // where the machine is so slow that seconds pass
  expect(await telemetry.registry.metrics()).toContain('sallyport_troubles_total{what="accept_failed"} 1000');
});
