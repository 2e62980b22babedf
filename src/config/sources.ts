import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { parse as parseYaml } from "yaml";
import type { z } from "zod";

/*
 * The sources of a configuration: a YAML file, the environment laid over it, and files that hold secrets. No problem
 * that this file reports repeats a value.
 */

export type Tree = Record<string, unknown>;
type Environment = Readonly<Record<string, string | undefined>>;

/** Variables of the command line client and of the test downloads. They are not settings of the server. */
const OF_THE_CLIENT = ["ADDRESS", "DATA_ADDRESS", "TOKEN", "SESSION", "CA_FILE", "CERT_FILE", "KEY_FILE", "CACHE"];

/** The mapping in a YAML file. Empty, with a problem, if the file holds none. */
export function readTree(file: string, problems: string[]): Tree {
  const text = readText(file, file, problems);
  const tree = text === undefined ? undefined : parseText(text, file, problems);
  if (tree === undefined || tree === null) return {};
  if (isMap(tree)) return tree;
  problems.push(`${file}: must be a mapping of keys`);
  return {};
}

/**
 * Lays the environment over a tree. `SALLYPORT_A__B` is `a.b`, parsed by the schema of that key. A blank variable
 * counts as unset.
 */
export function overlay(tree: Tree, env: Environment, schema: z.ZodType, problems: string[]): void {
  for (const [name, path] of Object.entries({ DATABASE_URL: ["database", "url"], REDIS_URL: ["redis", "url"] })) {
    if (!isBlank(env[name])) setPath(tree, path, env[name]);
  }
  const settings = Object.entries(env)
    .filter(([name, value]) => name.startsWith("SALLYPORT_") && !isBlank(value))
    .filter(([name, value]) => !isOfTheClient(name) && !isOfKubernetes(name, value!))
    .map(([name, value]) => ({ name, value: value!, path: name.slice("SALLYPORT_".length).toLowerCase().split("__") }))
    // A map comes before its keys.
    .sort((a, b) => a.path.length - b.path.length);
  for (const { name, value, path } of settings) {
    const file = path.at(-1)!.endsWith("_file");
    const type = file ? undefined : typeAt(schema, path);
    if (path.length === 1 && type === undefined && !WHOLE.some((key) => path[0] === `${key}_file`)) {
      problems.push(`${name}: not a setting (levels are separated by __, as in SALLYPORT_LOG__LEVEL)`);
      continue;
    }
    const typed = type === undefined ? value : typedValue(value, type, name, problems);
    if (typed !== undefined) setPath(tree, path, typed);
  }
}

/** Sections that a file of their own can hold as a whole. */
export const WHOLE = ["keyring", "signing"];

/** Reads the values of keys `x_file` from their files, and whole sections as `keyring_file`. */
export function readValues(tree: Tree, keys: readonly string[], problems: string[], files: string[]): void {
  for (const path of keys) {
    const [section, key] = path.split(".") as [string, string];
    const parent = tree[section];
    if (!isMap(parent)) continue;
    const text = takeFile(parent, `${key}_file`, `${path}_file`, problems, files);
    if (text !== undefined) parent[key] = text.trim();
  }
  for (const key of WHOLE) {
    const text = takeFile(tree, `${key}_file`, `${key}_file`, problems, files);
    if (text !== undefined) tree[key] = parseText(text, `${key}_file`, problems);
  }
}

/** Removes keys with a blank value, as if they were not written. */
export function removeBlank(tree: Tree, keys: readonly string[]): void {
  for (const key of keys) {
    const path = key.split(".");
    const parent = path.slice(0, -1).reduce<unknown>((at, name) => (isMap(at) ? at[name] : undefined), tree);
    const name = path.at(-1)!;
    if (isMap(parent) && Object.hasOwn(parent, name) && (parent[name] === null || isBlank(parent[name])))
      delete parent[name];
  }
}

/** A warning for each file with a secret that any user of the machine can read. */
export function openToOthers(secrets: readonly (readonly [key: string, file: string])[]): string[] {
  return secrets.flatMap(([key, file]) => {
    const mode = statSync(file, { throwIfNoEntry: false })?.mode ?? 0;
    return (mode & 0o004) === 0
      ? []
      : [`${key}: every user of this machine can read the file (mode 0${(mode & 0o777).toString(8)}): chmod o-r`];
  });
}

export function isBlank(value: unknown): boolean {
  return value === undefined || (typeof value === "string" && value.trim() === "");
}

export function removePath(tree: Tree, path: readonly PropertyKey[]): void {
  let at: unknown = tree;
  for (const key of path.slice(0, -1)) at = (at as Tree | undefined)?.[String(key)];
  if (typeof at === "object" && at !== null) delete (at as Tree)[String(path.at(-1))];
}

function takeFile(parent: Tree, name: string, key: string, problems: string[], files: string[]): string | undefined {
  const file = parent[name];
  delete parent[name];
  if (file === undefined || file === null || isBlank(file)) return undefined;
  files.push(String(file));
  const text = readText(String(file), key, problems);
  if (text === undefined || !isBlank(text)) return text;
  problems.push(`${key}: the file is blank`);
  return undefined;
}

function readText(file: string, where: string, problems: string[]): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    problems.push(`${where}: ${reasonOf(error)}`);
    return undefined;
  }
}

/** The reason why a file cannot be read. */
function reasonOf(error: unknown): string {
  const code = (error as { code?: string } | null)?.code;
  if (code === "ENOENT") return "no such file";
  if (code === "EACCES" || code === "EPERM") return "this user may not read the file";
  if (code === "EISDIR") return "it is a folder, not a file";
  return `the file cannot be read (${code ?? "error"})`;
}

/** Parses YAML without the library's warnings and messages, because they quote lines of the file. */
function parseText(text: string, where: string, problems: string[]): unknown {
  try {
    return parseYaml(text, { logLevel: "error" });
  } catch (error) {
    const { code, linePos } = error as { code?: string; linePos?: readonly { line: number; col: number }[] };
    const at = linePos?.[0];
    const place = at === undefined ? "" : `line ${at.line}, column ${at.col}: `;
    const what = code === undefined ? "" : ` (${code.toLowerCase().replaceAll("_", " ")})`;
    problems.push(`${where}: ${place}cannot be parsed as YAML${what}`);
    return undefined;
  }
}

/** Converts a variable's text to the type that the schema wants; other text is left for the schema to refuse. */
function typedValue(text: string, type: Definition, name: string, problems: string[]): unknown {
  switch (type.type) {
    case "number":
      return /^-?\d{1,15}$/.test(text) ? Number(text) : text;
    case "boolean":
      return text === "true" || text === "false" ? text === "true" : text;
    case "literal":
      return type.values?.includes(false) && text === "false" ? false : text;
    case "object":
    case "record":
    case "array":
      return parseText(text, name, problems);
    case "union": {
      const found = (type.options ?? []).map((option) => typedValue(text, innermost(option), name, problems));
      return found.find((value) => typeof value !== "string") ?? text;
    }
    default:
      return text;
  }
}

/** The part of a zod type's definition that we read. Not all types of the library declare it. */
interface Definition {
  readonly type: string;
  readonly innerType?: z.ZodType;
  readonly in?: z.ZodType;
  readonly shape?: Readonly<Record<string, z.ZodType>>;
  readonly valueType?: z.ZodType;
  readonly options?: readonly z.ZodType[];
  readonly values?: readonly unknown[];
}

/** The type of the key at a path; undefined if the schema has none. */
function typeAt(schema: z.ZodType, path: readonly string[]): Definition | undefined {
  let at: Definition | undefined = innermost(schema);
  for (const key of path) {
    const inner: z.ZodType | undefined =
      at.type === "record" ? at.valueType : Object.hasOwn(at.shape ?? {}, key) ? at.shape![key] : undefined;
    if (inner === undefined) return undefined;
    at = innermost(inner);
  }
  return at;
}

/** The inner type of an optional, a default or a transformation. */
function innermost(type: z.ZodType): Definition {
  const definition = type.def as unknown as Definition;
  const inner = definition.innerType ?? definition.in;
  return inner === undefined ? definition : innermost(inner);
}

function isOfTheClient(name: string): boolean {
  return OF_THE_CLIENT.includes(name.slice("SALLYPORT_".length));
}

/**
 * Matches the variables that Kubernetes and Docker links create for a service whose name begins with `sallyport`. The
 * value must match, too, so that a mistyped setting is not ignored.
 */
function isOfKubernetes(name: string, value: string): boolean {
  if (name.includes("__")) return false;
  // Bounded, as in Kubernetes, so that no long name makes the expression slow.
  if (/_SERVICE_HOST$/.test(name) || /_PORT_\d{1,5}_(TCP|UDP|SCTP)_ADDR$/.test(name)) return isIP(value) !== 0;
  if (/_SERVICE_PORT(_[A-Z0-9_]{1,63})?$/.test(name) || /_PORT_\d{1,5}_(TCP|UDP|SCTP)_PORT$/.test(name))
    return /^\d{1,5}$/.test(value);
  if (/_PORT_\d{1,5}_(TCP|UDP|SCTP)_PROTO$/.test(name)) return /^(tcp|udp|sctp)$/.test(value);
  return /_PORT(_\d{1,5}_(TCP|UDP|SCTP))?$/.test(name) && /^(tcp|udp|sctp):\/\//.test(value);
}

function isMap(value: unknown): value is Tree {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function setPath(tree: Tree, path: readonly string[], value: unknown): void {
  let at = tree;
  for (const key of path.slice(0, -1)) {
    if (!isMap(at[key])) at[key] = {};
    at = at[key] as Tree;
  }
  at[path[path.length - 1]!] = value;
}
