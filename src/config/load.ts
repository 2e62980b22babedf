import type { z } from "zod";
import { StartError } from "../domain/start-error.ts";
import { crossChecks } from "./checks.ts";
import { type Config, FROM_FILE, OPTIONAL, schema } from "./schema.ts";
import { isBlank, openToOthers, overlay, readTree, readValues, removeBlank, removePath, WHOLE } from "./sources.ts";

/**
 * Loads one configuration from a YAML file, with the environment laid over it. Keys are YAML paths. A variable is
 * `SALLYPORT_` and the path in upper case, with `__` between levels; `DATABASE_URL` and `REDIS_URL` work, too. A key
 * `x_file` reads the value of `x` from a file. Pure except for the files that it reads.
 */
export function loadConfig(file: string | undefined, env: Readonly<Record<string, string | undefined>>): Config {
  const problems: string[] = [];
  const tree = file === undefined ? {} : readTree(file, problems);
  const blankUrl = isBlankUrl(tree, env);
  overlay(tree, env, schema, problems);
  const files = file === undefined ? [] : [file];
  const secrets = secretFiles(tree);
  readValues(tree, FROM_FILE, problems, files);
  removeBlank(tree, OPTIONAL);
  const parsed = schema.safeParse(tree);
  const held = (config: z.output<typeof schema>) => problems.push(...crossChecks(config, blankUrl));
  if (parsed.success) held(parsed.data);
  else {
    problems.push(...parsed.error.issues.map(problemOf));
    // The valid keys are still checked against each other, so that every problem is reported at once.
    for (const { path } of parsed.error.issues) removePath(tree, path);
    const rest = schema.safeParse(tree);
    if (rest.success) held(rest.data);
  }
  if (problems.length > 0) throw new StartError("config_invalid", problems);
  const config = parsed.data!;
  for (const name of ["data", "admin"] as const) {
    const { tls } = config.listeners[name];
    if (tls === undefined) continue;
    files.push(tls.cert_file, tls.key_file, ...(tls.client_ca_file ? [tls.client_ca_file] : []));
    secrets.push([`listeners.${name}.tls.key_file`, tls.key_file]);
  }
  if (config.canary.key_file !== undefined) secrets.push(["canary.key_file", config.canary.key_file]);
  for (const [i, { client_secret_file: file }] of config.console.oidc.entries()) {
    secrets.push([`console.oidc.${i}.client_secret_file`, file]);
  }
  return deepFreeze({ ...config, files, warnings: openToOthers(secrets) });
}

/** The files that hold secrets, with the keys that name them. */
function secretFiles(tree: Readonly<Record<string, unknown>>): [key: string, file: string][] {
  return [...FROM_FILE, ...WHOLE]
    .map((key) => `${key}_file`)
    .flatMap((key) => {
      const value = key.split(".").reduce<unknown>((at, name) => (at as Record<string, unknown> | null)?.[name], tree);
      return typeof value === "string" && !isBlank(value) ? [[key, value] as [string, string]] : [];
    });
}

/** True if the database URL is set but empty, for example because a variable did not come through. */
function isBlankUrl(tree: Readonly<Record<string, unknown>>, env: Readonly<Record<string, string | undefined>>) {
  const inFile = (tree["database"] as Record<string, unknown> | null | undefined)?.["url"];
  return ["DATABASE_URL", "SALLYPORT_DATABASE__URL"].some((name) => env[name]?.trim() === "") || inFile === "";
}

/** Names the key and the bound, never a value. */
function problemOf(issue: z.core.$ZodIssue): string {
  const path = issue.path.join(".");
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => `${path === "" ? key : `${path}.${key}`}: ${refusalOf(path, key)}`).join("\n");
  }
  return `${path}: ${issue.message}`;
}

/** A key of an older version is refused with the name of its replacement. */
function refusalOf(path: string, key: string): string {
  return path === "" && key === "doors" ? "renamed, use listeners (SALLYPORT_LISTENERS__…)" : "no such setting";
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null)
    for (const inner of Object.values(Object.freeze(value))) deepFreeze(inner);
  return value;
}
