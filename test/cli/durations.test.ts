import { describe, expect, it } from "vitest";
import { formatWait, parseTime, relative, toMilliseconds, toSeconds } from "../../src/cli/durations.ts";
import { duration as flag } from "../../src/cli/flags.ts";
import { duration as setting } from "../../src/config/duration.ts";

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
  ])("a flag and a setting read %s alike", (text, milliseconds) => {
    expect([flag(text), setting.parse(text)]).toEqual([milliseconds, milliseconds]);
  });

  it.each(["", "90", "d", "-5d", "1.5h", "5 d", "5D", "5w", "1e3s", "9999999999d"])(
    "neither of them reads %j",
    (text) => {
      expect(() => flag(text)).toThrow('must be a duration such as "90d"');
      expect(setting.safeParse(text).error?.issues[0]?.message).toContain('must be a duration such as "90d"');
    },
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

  it.each([0, 1, 999, 1000, 1500, 90 * DAY, -1, -1500])("converts %d ms to protobuf and back", (milliseconds) => {
    const value = toSeconds(milliseconds);
    expect(value.nanos).toBeGreaterThanOrEqual(0);
    expect(toMilliseconds(value)).toBe(milliseconds);
  });

  it("prints waits and distances in their largest unit", () => {
    expect([12.4, 999, 1540].map(formatWait)).toEqual(["12 ms", "999 ms", "1.5 s"]);
    expect([90 * DAY, 3_599_999, -2 * 3_600_000, 400].map((distance) => relative(1e12 + distance, 1e12))).toEqual([
      "in 90d",
      "in 59m",
      "2h ago",
      "now",
    ]);
  });
});
