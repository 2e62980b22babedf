import { styleText } from "node:util";
import { visible } from "../domain/visible.ts";

/** The colour of each level that has one. */
const COLOURS: Readonly<Record<string, Parameters<typeof styleText>[0]>> = {
  trace: "dim",
  debug: "dim",
  warn: "yellow",
  error: "red",
  fatal: "red",
};
/** Said once in the text, or only useful to programs. */
const LEFT_OUT = new Set(["level", "time", "msg", "event", "alarm"]);

/**
 * Formats a line of the log for a person at a terminal. It has the local time, the level, the sentence, and each fact as
 * `name=value`. A line that is not JSON comes back unchanged. Control characters are escaped, because a stranger may have
 * written a fact.
 */
export function pretty(line: string, colour: boolean): string {
  let facts: Record<string, unknown>;
  try {
    facts = JSON.parse(line);
  } catch {
    return line;
  }
  const level = String(facts["level"]);
  const time = new Date(String(facts["time"]));
  const parts = [`${clock(time)} ${level.padEnd(5)} ${visible(String(facts["msg"] ?? facts["event"] ?? ""))}`];
  for (const [name, value] of Object.entries(facts)) {
    if (LEFT_OUT.has(name) || value === undefined) continue;
    parts.push(
      `${name}=${typeof value === "string" && /^[^\s"=]+$/.test(value) ? visible(value) : visible(JSON.stringify(value))}`,
    );
  }
  const text = parts.join("  ");
  const style = COLOURS[level];
  return `${colour && style !== undefined ? styleText(style, text, { validateStream: false }) : text}\n`;
}

function clock(time: Date): string {
  if (Number.isNaN(time.getTime())) return "--:--:--.---";
  const two = (value: number, width = 2) => String(value).padStart(width, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${two(time.getMilliseconds(), 3)}`;
}
