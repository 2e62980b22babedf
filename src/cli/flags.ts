import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { type Command, InvalidArgumentError, Option } from "commander";
import { DURATION_FORM, parseDuration } from "../domain/duration.ts";
import { reasonOf } from "./connect.ts";
import { parseTime, TIME_FORM, toSeconds } from "./durations.ts";
import { usage } from "./failure.ts";
import type { Io, Session } from "./session.ts";

const MOST_INPUT = 16 * 1024 * 1024;
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** For repeatable flags: `.option("--scope <scope>", "…", repeatable)`. */
export function repeatable(value: string, before: readonly string[] = []): string[] {
  return [...before, value];
}

/** `key=value`, repeatable, into one map. */
export function annotation(value: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
  const equals = value.indexOf("=");
  if (equals < 1) throw new InvalidArgumentError("It must be key=value.");
  return { ...before, [value.slice(0, equals)]: value.slice(equals + 1) };
}

/** A duration in milliseconds. */
export function duration(value: string): number {
  const milliseconds = parseDuration(value);
  if (milliseconds === undefined) throw new InvalidArgumentError(`It must be ${DURATION_FORM}.`);
  return milliseconds;
}

/** A time, in milliseconds since 1970. */
export function time(value: string): number {
  const milliseconds = parseTime(value);
  if (milliseconds === undefined) throw new InvalidArgumentError(`It must be ${TIME_FORM}.`);
  return milliseconds;
}

/** A time for a filter: absolute, or a duration before now. Milliseconds since 1970. */
export function timeOrAgo(value: string): number {
  const ago = parseDuration(value);
  return ago === undefined ? time(value) : Date.now() - ago;
}

/** Finds the value of an enum by its name in any case, with `-` or `_` between words: `oneOf(TokenState)`. */
export function oneOf<Value extends number>(values: Readonly<Record<string, Value>>): (value: string) => Value {
  return (value) => {
    const found = values[value.toUpperCase().replaceAll("-", "_")];
    if (found === undefined || found === 0) throw new InvalidArgumentError(`It must be one of ${names(values)}.`);
    return found;
  };
}

/** The names of an enum's values in the form that flags accept, for a help text. */
export function names(values: Readonly<Record<string, number>>): string {
  return Object.entries(values)
    .filter(([, value]) => value !== 0)
    .map(([name]) => name.toLowerCase().replaceAll("_", "-"))
    .join(", ");
}

export function wholeNumber(value: string): number {
  const number = Number(value);
  if (!/^\d{1,9}$/.test(value) || number === 0) throw new InvalidArgumentError("It must be a whole number above 0.");
  return number;
}

/** `--ttl`, `--expires-at`, `--no-expiry`: at most one of them. */
export interface LifetimeOptions {
  readonly ttl?: number;
  readonly expiresAt?: number;
  readonly expiry: boolean;
}

export function lifetimeFlags(command: Command, otherwise: string): Command {
  return command
    .addOption(
      new Option("--ttl <duration>", `its lifetime; ${otherwise}`)
        .argParser(duration)
        .conflicts(["expiresAt", "expiry"]),
    )
    .addOption(new Option("--expires-at <time>", "the time of its expiry").argParser(time).conflicts(["ttl", "expiry"]))
    .option("--no-expiry", "no expiry, if the profile allows that");
}

/** The lifetime in the API's form; unset without a flag. */
export function lifetimeOf({ ttl, expiresAt, expiry }: LifetimeOptions) {
  if (ttl !== undefined) return { case: "ttl", value: toSeconds(ttl) } as const;
  if (expiresAt !== undefined) return { case: "expireTime", value: toSeconds(expiresAt) } as const;
  if (!expiry) return { case: "noExpiry", value: true } as const;
  return { case: undefined } as const;
}

/** `--request-id`: a repeat with the same id gets the same answer. Random by default. */
export function requestIdFlag(command: Command): Command {
  return command.option("--request-id <uuid>", "repeat an earlier call: same id, same answer; random by default", uuid);
}

/** The request id to send. From here on an error message explains how to repeat the call with it. */
export function requestId(session: Session, given: string | undefined): string {
  const id = given ?? randomUUID();
  session.situation.repeat = `safe to repeat with --request-id ${id}`;
  return id;
}

/** For changes that may be repeated without harm. */
export const SAFE_TO_REPEAT = "safe to repeat";

/** `--no-wait`: `options.wait` is false. */
export function noWaitFlag(command: Command): Command {
  return command.option("--no-wait", "return when the change is durable, before it is in force everywhere");
}

/** `--clear <field>`, repeatable: makes a field empty. Takes the names of the API. */
export function clearFlag(command: Command, fields: readonly string[]): Command {
  const help = `make a field empty; repeatable: ${fields.join(", ")}`;
  return command.option("--clear <field>", help, (value: string, before: readonly string[] = []) => {
    if (!fields.includes(value)) throw new InvalidArgumentError(`It must be one of ${fields.join(", ")}.`);
    return [...before, value];
  });
}

/** Two opposite flags: `--disable` and `--enable`. */
export function switchFlags(command: Command, on: [name: string, help: string], off: [name: string, help: string]) {
  return command
    .addOption(new Option(`--${on[0]}`, on[1]).conflicts(off[0]))
    .addOption(new Option(`--${off[0]}`, off[1]));
}

/** The paths of an update mask, one for each given value. An empty update is a usage Failure. */
export function maskOf(
  fields: Readonly<Record<string, unknown>>,
  cleared: readonly string[] = [],
): { paths: string[] } {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  const paths = [...new Set([...given.map(([path]) => path), ...cleared])];
  if (paths.length === 0) throw usage("nothing to change: give at least one field (--help lists them)");
  return { paths };
}

/** The text of a file, or of stdin for `-`; at most 16 MiB. */
export async function readText(path: string, io: Io): Promise<string> {
  if (path !== "-") {
    try {
      return readFileSync(path, "utf8");
    } catch (error) {
      throw usage(`cannot read ${path}: ${reasonOf(error)}`);
    }
  }
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of io.stdin) {
    const bytes = Buffer.from(chunk);
    length += bytes.length;
    if (length > MOST_INPUT) throw usage("the input is longer than 16 MiB");
    chunks.push(bytes);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function uuid(value: string): string {
  if (!UUID.test(value)) throw new InvalidArgumentError("It must be a UUID.");
  return value;
}
