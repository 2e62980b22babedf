import { readFileSync } from "node:fs";
import { Secret } from "../domain/secret.ts";

/** The secret of a client of an issuer. Read at each use, because it may be renewed. Throws if there is none. */
export function clientSecret(file: string): Secret {
  const text = readFileSync(file, "utf8").trim();
  if (text === "") throw Object.assign(new Error("the file of a client secret is empty"), { code: "EMPTY" });
  return new Secret(text);
}

/** The problem of such a file; undefined if it can be used. */
export function clientSecretProblem(file: string): string | undefined {
  try {
    clientSecret(file);
    return undefined;
  } catch (error) {
    return `cannot be used (${(error as { code?: string }).code ?? "unreadable"})`;
  }
}
