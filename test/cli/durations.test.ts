import { describe, expect, it } from "vitest";
import { formatWait, parseDuration, parseTime, relative, toMilliseconds, toSeconds } from "../../src/cli/durations.ts";

const DAY = 86_400_000;

describe("durations", () => {
  it.each([
    ["90d", 90 * DAY],
    ["36h", 36 * 3_600_000],
    ["30m", 1_800_000],
    ["15s", 15_000],
    ["1500ms", 1500],
    ["1h30m", 5_400_000],
    ["0s", 0],
  ])("reads %s", (text, milliseconds) => expect(parseDuration(text)).toBe(milliseconds));

  it.each(["", "90", "d", "-5d", "1.5h", "5 d", "5D", "5w", "1e3s", "9999999999d"])("does not read %j", (text) =>
    expect(parseDuration(text)).toBeUndefined(),
  );

  it.each([
    ["2027-01-31", Date.UTC(2027, 0, 31)],
    ["2027-01-31T12:00:00Z", Date.UTC(2027, 0, 31, 12)],
    ["2027-01-31t12:00:00z", Date.UTC(2027, 0, 31, 12)],
    ["2027-01-31 12:00:00+02:00", Date.UTC(2027, 0, 31, 10)],
  ])("reads the time %s", (text, milliseconds) => expect(parseTime(text)).toBe(milliseconds));

  it.each([
    "",
    "tomorrow",
    "2027-13-01",
    "2027-01-31T12:00:00",
    "2027-02-30",
    "2027-01-01T24:00:00Z",
    "31.1.2027",
    "1",
  ])("does not read the time %j", (text) => expect(parseTime(text)).toBeUndefined());

  it.each([0, 1, 999, 1000, 1500, 90 * DAY, -1, -1500])("takes %d ms to protobuf and back", (milliseconds) => {
    const value = toSeconds(milliseconds);
    expect(value.nanos).toBeGreaterThanOrEqual(0);
    expect(toMilliseconds(value)).toBe(milliseconds);
  });

  it("says waits and distances in their largest unit", () => {
    expect([12.4, 999, 1540].map(formatWait)).toEqual(["12 ms", "999 ms", "1.5 s"]);
    expect([90 * DAY, 3_599_999, -2 * 3_600_000, 400].map((distance) => relative(1e12 + distance, 1e12))).toEqual([
      "in 90d",
      "in 59m",
      "2h ago",
      "now",
    ]);
  });
});
