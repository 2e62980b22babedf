import { expect, test } from "vitest";
import { pretty } from "../../src/telemetry/pretty.ts";
import { createTelemetry } from "../../src/telemetry/telemetry.ts";

const time = new Date(2026, 0, 2, 3, 4, 5, 67).toISOString();
const line = (facts: object) => `${JSON.stringify({ level: "info", time, event: "reloaded", ...facts })}\n`;

test("a line has local time, level, sentence and facts", () => {
  expect(
    pretty(line({ msg: "the configuration was reloaded", port: 7400, name: "a b", err: { class: "E" } }), false),
  ).toBe('03:04:05.067 info  the configuration was reloaded  port=7400  name="a b"  err={"class":"E"}\n');
});

test("a line without a sentence shows the name of its event", () => {
  expect(pretty(line({}), false)).toBe("03:04:05.067 info  reloaded\n");
});

test("a warning and an error have a colour, and none where colours are off", () => {
  for (const level of ["warn", "error", "fatal"]) {
    expect(pretty(line({ level }), true)).toContain("\u001b[");
    expect(pretty(line({ level }), false)).not.toContain("\u001b");
  }
});

test("a fact cannot move the cursor, turn the text or end the line", () => {
  const text = pretty(line({ msg: "x\u001b[2J", name: "a\u202eb\u0007\r\n", other: "\u009b" }), false);
  expect(text).toMatch(/^[^\p{Cc}\u202e]*\n$/u);
});

test("what is not JSON is shown as it is", () => {
  expect(pretty("plain\n", false)).toBe("plain\n");
});

test("the log writes each line through the given output", () => {
  const lines: string[] = [];
  const telemetry = createTelemetry("info", { write: (text) => void lines.push(pretty(text, false)) });
  telemetry.alarm("reload_rejected", { problems: "x" });
  expect(lines).toEqual([expect.stringMatching(/^\d\d:\d\d:\d\d\.\d{3} error .* problems=x\n$/)]);
});
