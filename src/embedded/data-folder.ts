import { closeSync, existsSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { freshKeyring } from "../domain/keyring.ts";
import { freshSigning, type SigningSettings } from "../domain/signing-keys.ts";

/** The secret files of the embedded data folder: created once, mode 0600, never overwritten in place. */
const KEYRING = "keyring.json";
const SIGNING = "signing.json";
/** The issuer of tokens in JWT form of an embedded server, which nobody configured: its data listener. */
export const EMBEDDED_ISSUER = "http://127.0.0.1:7400";
const ADMIN_TOKEN = "admin-token";

/** The keyring of a data folder, created at the first start. */
export function keyringOf(dataDir: string): { current: string; keys: Record<string, string> } {
  const file = join(dataDir, KEYRING);
  if (!existsSync(file)) writeSecret(file, `${JSON.stringify(freshKeyring())}\n`);
  return JSON.parse(readFileSync(file, "utf8")) as { current: string; keys: Record<string, string> };
}

/** The signing keys of a data folder, created at the first start that needs them. `issuer` is for new ones. */
export function signingOf(dataDir: string, issuer: string): SigningSettings {
  const file = join(dataDir, SIGNING);
  if (!existsSync(file)) writeSecret(file, `${JSON.stringify(freshSigning(issuer))}\n`);
  return JSON.parse(readFileSync(file, "utf8")) as SigningSettings;
}

export function adminTokenFile(dataDir: string): string {
  return join(dataDir, ADMIN_TOKEN);
}

/** Writes a secret to a file of mode 0600, whole or not at all. */
export function writeSecret(file: string, text: string): void {
  const fresh = `${file}.${process.pid}.new`;
  const fd = openSync(fresh, "wx", 0o600);
  try {
    writeSync(fd, text);
  } finally {
    closeSync(fd);
  }
  renameSync(fresh, file);
}
