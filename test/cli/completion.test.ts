import { spawnSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cli } from "./peer.ts";

/** What bash offers for the last word. */
async function offers(...words: string[]): Promise<string[]> {
  const { out } = await cli(["completion", "bash"]);
  const line = `COMP_WORDS=(${["sallyport", ...words].map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length}`;
  const bash = spawnSync("bash", ["-c", `${out}\n${line}\n_sallyport; printf '%s\\n' "\${COMPREPLY[@]}"`]);
  expect(String(bash.stderr)).toBe("");
  return String(bash.stdout).split("\n").filter(Boolean);
}

describe("bash", () => {
  it("offers commands, and those that begin with the typed letters", async () => {
    expect(await offers("")).toEqual(
      expect.arrayContaining(["serve", "check-config", "tokens", "validate", "completion"]),
    );
    expect(await offers("tok")).toEqual(["tokens"]);
    expect(await offers("tokens", "re")).toEqual(expect.arrayContaining(["revoke", "revoke-many"]));
  });

  it("offers the options of a command and the options of all commands", async () => {
    const create = await offers("tokens", "create", "--");
    expect(create).toEqual(expect.arrayContaining(["--profile", "--display-name", "--address", "--json", "--help"]));
    expect(await offers("audit", "list", "--")).not.toContain("--display-name");
  });

  it("knows the place although options and their values are between the words", async () => {
    expect(await offers("--address", "http://x", "tokens", "--json", "create", "--princ")).toEqual(["--principal"]);
  });

  it("offers nothing of its own where files belong", async () => {
    expect(await offers("tokens", "revoke", "--token-string-file", "./x")).toEqual([]);
  });
});

const missing = (shell: string) => spawnSync(shell, ["-c", "exit"]).error !== undefined;
const SHELLS = ["zsh", "fish"].map((shell) => [shell, missing(shell) ? " (it is not installed)" : ""] as const);
it.for(SHELLS)("the script for %s parses%s", async ([shell, gone], { skip }) => {
  const { exit, out } = await cli(["completion", shell]);
  expect(exit).toBe(0);
  expect(out).toContain("revoke-many");
  skip(gone !== "");
  const file = join(mkdtempSync(join(tmpdir(), "sallyport-completion-")), shell);
  writeFileSync(file, out);
  expect(String(spawnSync(shell, ["-n", file]).stderr)).toBe("");
});

it("an unknown shell is a usage error that names the known ones", async () => {
  const { exit, err } = await cli(["completion", "tcsh"]);
  expect(exit).toBe(2);
  expect(err).toContain("Allowed choices are bash, zsh, fish");
});

it("--version prints the version, commit and Node in one line, wherever it stands", async () => {
  for (const argv of [["--version"], ["-V"], ["--json", "--version"]]) {
    expect(await cli(argv)).toEqual({ exit: 0, out: "sallyport 1.2.3 (commit 0a1b2c3, node v24.0.0)\n", err: "" });
  }
});
