import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { PassThrough } from "node:stream";
import { Code } from "@connectrpc/connect";
import { codeToHttpStatus } from "@connectrpc/connect/protocol-connect";
import { describe, expect, test } from "vitest";
import { runCli } from "../src/cli/main.ts";
import { FROM_FILE, schema } from "../src/config/schema.ts";
import { DENIED, outcomeOf } from "../src/data-plane/check/authorization.ts";
import { Policies } from "../src/data-plane/policy.ts";
import { CHECKS } from "../src/domain/finding.ts";
import { BUILT_IN_PROFILES } from "../src/domain/profile.ts";
import { Verdict } from "../src/gen/sallyport/v1/token_validator_pb.ts";
import { errorTable } from "../src/rpc/errors.ts";
import { ALARMS, LINES, NOTES, TROUBLES, WARNINGS } from "../src/telemetry/events.ts";
import { createTelemetry } from "../src/telemetry/telemetry.ts";
import type { ValidationResult } from "../src/validation/validate.ts";
import { folder, run } from "./support/program.ts";

const ROOT = join(import.meta.dirname, "..");
const read = (file: string) => readFileSync(join(ROOT, file), "utf8");
const PAGES = [
  "README.md",
  "CHANGELOG.md",
  "SECURITY.md",
  "CONTRIBUTING.md",
  "test/README.md",
  ...readdirSync(join(ROOT, "docs"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".md"))
    .map((file) => `docs/${file}`),
  ...readdirSync(join(ROOT, "examples")).map((name) => `examples/${name}/README.md`),
];

/** The rows of all tables under a heading (its text), as cells; heading and separator rows left out. */
function rows(page: string, heading?: RegExp): string[][] {
  const text = read(page);
  const sections = text.split(/^(?=#{1,6} )/m);
  const chosen = heading === undefined ? sections : sections.filter((section) => heading.test(section.split("\n")[0]!));
  const lines = chosen.flatMap((section) => section.split("\n"));
  return lines
    .filter((line, i) => line.startsWith("|") && !/^\|[-:|]+\|$/.test(line) && !/^\|[-:|]+\|$/.test(lines[i + 1] ?? ""))
    .map((line) =>
      line
        .slice(1, -1)
        .split("|")
        .map((cell) => cell.trim()),
    );
}

/** Contents for the files that the examples name. */
const freshKey = randomBytes(32).toString("base64");
const SECRETS = {
  "database-url": "postgres://sallyport:hunter2@127.0.0.1/sallyport",
  "redis-url": "redis://sallyport:hunter2@127.0.0.1",
  keyring: JSON.stringify({ current: "1", keys: { "1": freshKey } }),
};

const codes = (cell: string) => [...cell.matchAll(/`([^`]+)`/g)].map((found) => found[1]!);

describe("configuration", () => {
  const { keys, files } = settings();

  const first = [...new Set([...keys.keys()].map((key) => key.split(".")[0]!))].join("|");
  const setting = new RegExp(`^\`(${first})(\\.|\`)`);
  const documented = new Map(
    rows("docs/configuration.md")
      .filter(([key]) => setting.test(key!))
      .flatMap(([key, value]) => codes(key!).map((name) => [name, codes(value!)[0]] as const)),
  );

  test("docs/configuration.md has every key of the schema, and no other", () => {
    expect([...documented.keys()].sort()).toEqual([...keys.keys()].sort());
  });

  test("docs/configuration.md has the defaults of the schema", () => {
    const stated = [...documented].map(([key, value]) => [key, plain(value)]);
    expect(Object.fromEntries(stated)).toEqual(Object.fromEntries(keys));
  });

  test("docs/configuration.md names every key that a file can hold", () => {
    for (const key of files) expect(read("docs/configuration.md")).toContain(`\`${key}_file\``);
  });

  test("docs/configuration.md has the built-in profiles with their settings", () => {
    const days = (ms: number) => `${ms / 86_400_000}d`;
    const yes = (is: boolean) => (is ? "yes" : "no");
    const wanted = BUILT_IN_PROFILES.map((p) => [
      `\`${p.name}\``,
      `\`${p.prefix}\``,
      p.principals.join(", "),
      days(p.maxTtl),
      days(p.defaultTtl),
      yes(p.allowNoExpiry),
      p.mintedBy.join(", "),
      p.selfRotate === "renew" ? "renew" : yes(p.selfRotate),
      yes(p.allowEmptyName),
    ]);
    expect(rows("docs/configuration.md", /^## Tokens/).filter((row) => row.length === 9)).toEqual(wanted);
    expect(BUILT_IN_PROFILES.every((p) => p.maxLivePerPrincipal === 1000 && p.onReuse === "audit")).toBe(true);
  });

  for (const [name, text] of examples()) {
    test(`${name} passes check-config`, async () => {
      const secrets = folder();
      try {
        for (const [file, value] of Object.entries(SECRETS))
          writeFileSync(join(secrets.path, file), value, { mode: 0o600 });
        const config = join(secrets.path, "sallyport.yaml");
        writeFileSync(config, text.replaceAll("/run/secrets", secrets.path));
        const { code, out, err } = await run(["check-config", "--config", config]);
        expect(err).toBe("");
        expect(code).toBe(0);
        for (const secret of ["hunter2", freshKey]) expect(out).not.toContain(secret);
      } finally {
        secrets.remove();
      }
    });
  }
});

test("docs/errors.md has every reason with its code, HTTP status, retry and fault, and no other", () => {
  const wanted = errorTable().map(({ reason, code, retry, fault }) =>
    [reason, snake(Code[code]), codeToHttpStatus(code), retry, fault].join(" "),
  );
  const table = rows("docs/errors.md").filter(
    ([reason, code]) => /^`[A-Z_]+`$/.test(reason!) && /^[A-Z_]+$/.test(code ?? ""),
  );
  expect(table.map(([reason, ...cells]) => [codes(reason!)[0], ...cells.slice(0, 4)].join(" "))).toEqual(wanted);
});

test("docs/errors.md has every denial of a check with its HTTP status and code, and no other", () => {
  const refusals = Object.keys(Verdict).filter(
    (name) => /^[A-Z_]+$/.test(name) && !["UNSPECIFIED", "ALLOW"].includes(name),
  );
  const policy = new Policies({}).get("default")!;
  const denials = [
    ...refusals.map((verdict) => outcomeOf({ verdict } as ValidationResult, policy)),
    DENIED.policy,
    DENIED.undecodable,
  ].map((denial) =>
    denial.kind === "denied" ? `${denial.verdict} ${denial.status} ${snake(Code[denial.code]!)}` : "",
  );
  const table = rows("docs/errors.md", /Answers of the HTTP endpoints/).filter(([, , code]) => /^[A-Z_]+$/.test(code!));
  expect(table.map(([verdict, ...cells]) => `${codes(verdict!)[0]} ${cells[0]} ${cells[1]}`)).toEqual(denials);
});

test("docs/security.md names a test for each known attack on HTTP/2, and each test exists", () => {
  const attacks = rows("docs/security.md", /Known attacks on HTTP\/2/);
  expect(attacks.length).toBeGreaterThan(12);
  for (const [cve, , tests] of attacks) {
    expect(cve).toMatch(/^CVE-\d{4}-\d{4,}/);
    const named = [...tests!.matchAll(/`(test\/[\w/.-]+\.ts)`: `([^`]+)`/g)];
    expect(named.length, cve).toBeGreaterThan(0);
    for (const [, file, title] of named) expect(read(file!).includes(`"${title}"`), `${file}: ${title}`).toBe(true);
  }
});

test("docs/monitoring.md has every metric of ours, and every metric on the pages is registered", async () => {
  const telemetry = createTelemetry("fatal", { write() {} });
  const names = telemetry.registry.getMetricsAsArray().map(({ name }) => name);
  const ours = names.filter((name) => name.startsWith("sallyport_"));
  expect(ours.length).toBeGreaterThan(10);
  const documented = rows("docs/monitoring.md", /Metrics/).flatMap(([name]) =>
    codes(name!).map((code) => code.split("{")[0]!),
  );
  expect(documented.sort()).toEqual(ours.sort());
  const named = PAGES.flatMap((page) => read(page).match(/sallyport_[a-z_]+_(total|seconds|entries|info)\b/g) ?? []);
  expect(named.filter((name) => !names.includes(name))).toEqual([]);
});

test("docs/monitoring.md explains every alarm, trouble and log event in one sentence or two with an action, and no other", () => {
  const explained = (heading: RegExp) =>
    rows("docs/monitoring.md", heading).flatMap(([names, means, action]) => {
      expect(means, names).toMatch(/^[A-Z].*\.$/);
      expect(action, names).toMatch(/\S/);
      return codes(names!);
    });
  expect(explained(/^## Alarms/).sort()).toEqual(Object.keys(ALARMS).sort());
  expect(explained(/^## Troubles/).sort()).toEqual(Object.keys(TROUBLES).sort());
  expect(explained(/^## Logs/).sort()).toEqual(Object.keys({ ...NOTES, ...WARNINGS, ...LINES }).sort());
  const names = Object.keys({ ...ALARMS, ...TROUBLES, ...NOTES, ...WARNINGS, ...LINES });
  expect(names.filter((name) => !/^[a-z]+(_[a-z]+)*$/.test(name))).toEqual([]);
});

test("docs/troubleshooting.md explains every check of doctor, in the order of its lines", () => {
  const explained = rows("docs/troubleshooting.md", /^## The checks/).flatMap(([check]) => codes(check!));
  expect(explained).toEqual(CHECKS);
});

test("docs/cli.md has every command of the help, and every command there is in the help", async () => {
  const top = await commandsIn(["--help"]);
  const nouns = ["tokens", "principals", "tenants", "roles", "rules", "audit", "access"];
  const verbs = await Promise.all(
    nouns.map(async (noun) => (await commandsIn([noun, "--help"])).map((verb) => `${noun} ${verb}`)),
  );
  const wanted = [...top.filter((word) => !nouns.includes(word)), ...verbs.flat()];
  expect(wanted.length).toBeGreaterThan(15);
  const documented = rows("docs/cli.md", /Commands/).flatMap(([command]) => codes(command!));
  expect(documented.sort()).toEqual(wanted.sort());
});

test("links between pages lead to existing targets, anchors included", () => {
  const broken = PAGES.flatMap((page) =>
    [...read(page).matchAll(/\]\(([^)\s]+)\)/g)]
      .map((found) => found[1]!)
      .filter((link) => !/^[a-z]+:/.test(link))
      .filter((link) => !resolves(page, link))
      .map((link) => `${page}: ${link}`),
  );
  expect(broken).toEqual([]);
});

test("each example has a page of at most 40 lines, which docs/README.md lists", () => {
  const listed = rows("docs/README.md", /^## Examples/).flatMap(([names]) =>
    [...names!.matchAll(/\]\(\.\.\/(examples\/[\w-]+\/README\.md)\)/g)].map(([, page]) => page!),
  );
  expect(listed.sort()).toEqual(PAGES.filter((page) => page.startsWith("examples/")).sort());
  for (const page of listed) expect(read(page).trimEnd().split("\n").length, page).toBeLessThanOrEqual(40);
});

test("every § that the code cites is a section of docs/protocol.md, or of an RFC", () => {
  const sections = new Set(
    [...read("docs/protocol.md").matchAll(/^#{2,3} (\d+(?:\.\d+)?)\.? /gm)].map((found) => found[1]!),
  );
  expect(sections.size).toBeGreaterThan(20);
  const files = ["src", "test", "scripts", "bench"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
      .filter((file) => /\.(ts|sql|pml)$/.test(file) && !file.startsWith("gen/") && file !== "docs.test.ts")
      .map((file) => `${folder}/${file}`),
  );
  const unresolved = files.flatMap((file) => {
    const text = read(file);
    return [...text.matchAll(/§ ?(\d+(?:\.\d+)*)/g)]
      .filter(({ index, 1: section }) => {
        const before = text.slice(Math.max(0, index - 60), index).replace(/\s+(\*|--|\/\/)?\s*/g, " ");
        if (/docs\/protocol\.md`? (§[\d.]+,? ?(and )?)*$/.test(before)) return !sections.has(section!);
        return !/RFC \d+[^;)]*$/.test(before);
      })
      .map((found) => `${file}: ${found[0]}`);
  });
  expect(unresolved).toEqual([]);
});

describe("plain English", () => {
  /** Constructs that a hurried reader must read twice, each with a plain alternative. */
  const REFUSED: readonly (readonly [construct: RegExp, instead: string])[] = [
    [/\bcan not\b/i, "cannot"],
    [/\ban own\b/i, "its own"],
    [/\bas of\b/i, "at, or by"],
    [/\btold\b/i, "the verb that says what happens: reports, returns, sends"],
    [/(?:^|[.;] )(?:Whether|Whoever|What|Who)\b/, "a sentence with its subject first"],
  ];
  const faults = (text: string): string[] =>
    REFUSED.filter(([construct]) => construct.test(text)).map(([, instead]) => `${text.slice(0, 100)} → ${instead}`);
  const under = (folder: string, name: RegExp) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
      .filter((file) => name.test(file) && !/(?:^|\/)gen\//.test(file))
      .map((file) => `${folder}/${file}`);

  /** Each comment in one line. A comment that follows code is left out: `//` in a string looks like one. */
  const comments = (source: string): string[] =>
    [...source.matchAll(/^[ \t]*\/\*[\s\S]*?\*\/|(?:^[ \t]*\/\/.*\n)+/gm)].map(([comment]) =>
      comment
        .replace(/^[ \t]*(?:\/\*\*?|\*\/|\*|\/\/)/gm, "")
        .replace(/\*\/$/, "")
        .replace(/\s+/g, " ")
        .trim(),
    );

  /** The sentences of a page, without code blocks. */
  const sentences = (page: string): string[] =>
    page
      .replace(/^```[\s\S]*?^```/gm, "")
      .replace(/^#.*$/gm, "")
      .replaceAll("**", "")
      .split(/\n\s*\n|\n(?=\s*(?:[-|#]|\d+\. ))|(?<=\.) /)
      .map((sentence) =>
        sentence
          .replace(/\s+/g, " ")
          .replace(/^(?:[-#|]+|\d+\.) /, "")
          .trim(),
      )
      .filter((sentence) => !sentence.endsWith("?"));

  test("comments of src, proto, scripts and bench have none of the refused constructs", () => {
    const files = ["src", "proto", "scripts", "bench"].flatMap((folder) => under(folder, /\.(?:ts|mjs|proto)$/));
    expect(files.length).toBeGreaterThan(200);
    const found = files.flatMap((file) =>
      comments(read(file)).flatMap((comment) => faults(comment).map((fault) => `${file}: ${fault}`)),
    );
    expect(found).toEqual([]);
  });

  test("messages of src say cannot", () => {
    const found = under("src", /\.ts$/).filter((file) => /\bcan not\b/.test(read(file)));
    expect(found).toEqual([]);
  });

  test("pages have none of the refused constructs", () => {
    const pages = [...PAGES.filter((page) => page !== "CHANGELOG.md"), ...under("src", /README\.md$/)];
    const found = pages.flatMap((page) =>
      sentences(read(page)).flatMap((sentence) => faults(sentence).map((fault) => `${page}: ${fault}`)),
    );
    expect(found).toEqual([]);
  });

  test("titles of tests have none of the refused constructs", () => {
    const title = /(["`])((?:(?!\1)[^\\\n]|\\.)+)\1,\s*(?:async )?\(|^\s*title:\s*(["`])(.+)\3,$/gm;
    const found = under("test", /\.ts$/)
      .filter((file) => file !== "test/docs.test.ts")
      .flatMap((file) =>
        [...read(file).matchAll(title)].flatMap(([, , called, , named]) =>
          faults((called ?? named)!).map((fault) => `${file}: ${fault}`),
        ),
      );
    expect(found).toEqual([]);
  });

  test("the scan finds what it looks for", () => {
    const [block, lines, ...rest] = comments("/**\n * It says so.\n * Whoever asks.\n */\nf();\n// It can\n// not.\n");
    expect([block, lines, rest]).toEqual(["It says so. Whoever asks.", "It can not.", []]);
    expect(
      [block!, lines!, "Who asks", "It asks what is told", "so as of 3"].map((text) => faults(text).length),
    ).toEqual([1, 1, 1, 1, 1]);
    expect(faults("It says what to do, and who did it.")).toEqual([]);
  });
});

test("scripts that the pages name exist", () => {
  const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
  for (const page of PAGES) {
    for (const [, name] of read(page).matchAll(/npm run (?:-s )?([a-z][a-z:0-9-]*)/g)) {
      const script = scripts[name!];
      expect(script, `${page}: ${name}`).toBeDefined();
      const file = /node (?:--\S+ )*(\S+\.ts)/.exec(script!)?.[1];
      if (file !== undefined) expect(existsSync(join(ROOT, file)), `${page}: npm run ${name} → ${file}`).toBe(true);
    }
  }
});

/** Leaf keys of the schema with their defaults (undefined: none), and the keys that a file can hold. */
function settings(): { keys: Map<string, string | undefined>; files: string[] } {
  return { keys: new Map(leaves(schema, "")), files: FROM_FILE };
}

type Setting = readonly [key: string, value: string | undefined];

/** The leaves below a type at a path; `given` is the default that an outer type states. */
// biome-ignore lint/suspicious/noExplicitAny: the definitions of zod's types are not a union that narrows
function leaves({ def }: any, path: string, given?: unknown): Setting[] {
  switch (def.type) {
    case "optional":
      return leaves(def.innerType, path, given);
    case "default":
    case "prefault":
      return leaves(def.innerType, path, given ?? def.defaultValue);
    case "pipe":
      return leaves(def.in, path, given);
    case "object":
      return Object.entries(def.shape).flatMap(([key, inner]) => leaves(inner, path === "" ? key : `${path}.${key}`));
  }
  if (def.type === "record" && def.valueType.def.type === "object") return leaves(def.valueType, `${path}.<name>`);
  if (def.type === "array" && def.element.def.type === "object") return leaves(def.element, `${path}[]`);
  return [[path, given === undefined || typeof given === "string" ? given : JSON.stringify(given)]];
}

/** A default as the tables write it. */
function plain(value: string | undefined): string | undefined {
  if (value === '""') return "";
  const size = /^(\d+) MiB$/.exec(value ?? "");
  return size === null ? value : String(Number(size[1]) * 1024 ** 2);
}

function snake(name: string): string {
  return name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
}

async function commandsIn(argv: string[]): Promise<string[]> {
  const stdout = new PassThrough();
  const exit = await runCli(argv, {
    stdin: new PassThrough(),
    stdout,
    stderr: new PassThrough(),
    env: {},
    version: "",
  });
  expect(exit).toBe(0);
  const help = String(stdout.read());
  const lists = help.split(/^(?=\S.*:$)/m).filter((part) => /^(Server|Client|Commands):/.test(part));
  return lists
    .flatMap((list) => [...list.matchAll(/^ {2}([a-z][a-z-]*)/gm)].map((found) => found[1]!))
    .filter((word) => word !== "help");
}

function resolves(page: string, link: string): boolean {
  const [path, anchor] = link.split("#") as [string, string | undefined];
  const target = path === "" ? join(ROOT, page) : join(ROOT, dirname(page), path);
  if (!existsSync(target)) return false;
  return anchor === undefined || anchors(relative(ROOT, target)).includes(anchor);
}

function anchors(page: string): string[] {
  return [...read(page).matchAll(/^#{1,6} (.+)$/gm)].map((found) =>
    found[1]!
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
}

/** The configurations in `deploy/`: name and text. */
function examples(): [name: string, text: string][] {
  return [["deploy/sallyport.example.yaml", read("deploy/sallyport.example.yaml")]];
}
