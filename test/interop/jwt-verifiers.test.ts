import { execFileSync, spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";
import { signingInput, signJwt } from "../../src/domain/jwt-string.ts";
import { Keyring } from "../../src/domain/keyring.ts";
import { newTokenId } from "../../src/domain/token-string.ts";
import { ISSUER, part, signingKeys, unpart } from "../support/signing.ts";

/* Verifiers that share no code with us: the JWTs of the key set that we publish are good there, and changed ones are not. */

const HERE = join(import.meta.dirname, "verifiers");
const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/local/go/bin`, GO111MODULE: "off" };
const VERIFIERS: [language: string, probe: string[], command: string[]][] = [
  ["Python", ["python3", "-c", "import cryptography"], ["python3", join(HERE, "verify.py")]],
  ["Go", ["go", "version"], ["go", "run", join(HERE, "verify.go")]],
  ["Java", ["java", "--version"], ["java", join(HERE, "Verify.java")]],
];

const runs = ([program, ...args]: string[]) => spawnSync(program!, args, { env }).status === 0;

for (const [language, probe, [program, ...args]] of VERIFIERS) {
  const there = runs(probe);
  const without = there ? "" : ` (${probe.join(" ")} does not run)`;
  test.skipIf(!there)(`${language} verifies what we sign, and no more${without}`, { timeout: 120_000 }, () => {
    const signing = signingKeys();
    const keyring = new Keyring("1", { "1": Buffer.alloc(32, 1).toString("base64") }, signing);
    const facts = {
      id: newTokenId(),
      tenant: "acme",
      profile: "pat",
      principal: "user:ann",
      scopes: ["a"],
      audiences: [],
    };
    const jwts = (["EdDSA", "ES256"] as const).flatMap((alg) =>
      Array.from({ length: 5 }, (_, i) => {
        const signedBy = signing.current(alg)!;
        const input = signingInput({ ...facts, issueTime: i * 1000 }, ISSUER, signedBy, keyring.current);
        return signJwt(input, { signedBy, keys: keyring.current }).tokenString.reveal();
      }),
    );
    const changed = jwts.map((text) => {
      const [header, claims, signature] = text.split(".") as [string, string, string];
      return `${header}.${part({ ...unpart(claims), scope: "b" })}.${signature}`;
    });
    const { keys } = JSON.parse(signing.jwks) as { keys: Record<string, string>[] };
    const lines = [
      ...keys.map(({ kid, alg, x, y = "" }) => `key ${kid} ${alg} ${x} ${y}`.trim()),
      ...[...jwts, ...changed].map((text) => `jwt ${text}`),
    ];
    const out = execFileSync(program!, args, { env, input: `${lines.join("\n")}\n`, encoding: "utf8" });
    expect(out.trim().split("\n")).toEqual([...jwts.map(() => "ok"), ...changed.map(() => "bad")]);
  });
}
