import { expect, test } from "vitest";
import type { CallLine } from "../../src/telemetry/events.ts";
import { createTelemetry } from "../../src/telemetry/telemetry.ts";

const line = (more: Partial<CallLine>): CallLine => ({
  requestId: "r",
  method: "sallyport.v1.TokenAdmin/GetToken",
  code: "Unauthenticated",
  seconds: 0.001,
  level: "info",
  ...more,
});

test("calls without a good credential are all counted, and ten a second are logged", async () => {
  const lines: string[] = [];
  const telemetry = createTelemetry("info", { write: (text) => void lines.push(text) });
  for (let i = 0; i < 1_000; i++) telemetry.called(line({ reason: "CALLER_UNAUTHENTICATED" }));
  expect(lines.length).toBeGreaterThanOrEqual(10);
  expect(lines.length).toBeLessThanOrEqual(20); // where the machine is so slow that a second begins
  expect(await telemetry.registry.metrics()).toMatch(/sallyport_rpc_total\{.*Unauthenticated.*\} 1000/);
});

test("calls of callers that are known are all logged", () => {
  const lines: string[] = [];
  const telemetry = createTelemetry("info", { write: (text) => void lines.push(text) });
  for (let i = 0; i < 50; i++) telemetry.called(line({ code: "OK", actor: "token:x" }));
  expect(lines).toHaveLength(50);
});
