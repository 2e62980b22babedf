import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, posix } from "node:path";
import { expect, test } from "vitest";

const SRC = join(import.meta.dirname, "../src");

interface Room {
  /** The folders and files of `src/` that it may import from. */
  readonly inside: readonly string[];
  /** Packages; `node:*` stands for every module of Node. */
  readonly outside: readonly string[];
}

const room = (inside: string[], outside: string[]): Room => ({ inside, outside });
/** The composition layer: it puts the folders together and sees all of them. */
const COMPOSITION = [
  "domain/",
  "telemetry/",
  "config/",
  "validation/",
  "revocation/",
  "feed/",
  "management/",
  "postgres/",
  "redis/",
  "embedded/",
  "sessions/",
  "rpc/",
  "listen/",
  "http2/",
  "data-plane/",
  "admin-api/",
  "ops/",
  "gen/",
  "listeners.ts",
  "callers.ts",
  "sallyport.ts",
  "usable.ts",
  "traced.ts",
  "workers/",
];

/** The core, from the base up. Each folder sees those before it. */
const CORE = ["domain/", "telemetry/", "validation/", "revocation/", "feed/", "management/"];
const below = (folder: string) => CORE.slice(0, CORE.indexOf(folder) + 1);
/** The folders that every listener's own folder sees. */
const TRANSPORT = [...CORE, "gen/", "rpc/", "listen/", "http2/"];
const CONNECT = ["@connectrpc/connect", "@bufbuild/protobuf"];

/** The table of allowed imports. The longest matching name is a file's room: a folder or a file of `src/`. */
const ROOMS: Readonly<Record<string, Room>> = {
  "domain/": room(["domain/"], ["node:crypto", "node:zlib", "node:net", "node:util"]),
  "telemetry/": room(below("telemetry/"), ["pino", "prom-client", "node:util"]),
  // Imported only if the environment has an endpoint for traces; its packages are optional.
  "telemetry/otlp.ts": room(
    [],
    [
      "@opentelemetry/api",
      "@opentelemetry/sdk-trace",
      "@opentelemetry/resources",
      "@opentelemetry/exporter-trace-otlp-http",
      "node:async_hooks",
    ],
  ),
  "config/": room(["config/", "domain/"], ["zod", "yaml", "node:fs", "node:net"]),
  "validation/": room(below("validation/"), []),
  "revocation/": room(below("revocation/"), []),
  // A client of another instance: the only place outside `cli/` that calls a listener.
  "revocation/canary-peer.ts": room(["config/", "domain/"], ["node:http", "node:https", "node:fs"]),
  "feed/": room(below("feed/"), ["node:crypto"]),
  "management/": room(below("management/"), ["node:crypto"]),
  "postgres/": room(
    [...CORE, "postgres/"],
    ["pg", "node:fs", "node:crypto", "node:events", "node:net", "node:timers/promises"],
  ),
  "redis/": room([...CORE, "redis/"], ["ioredis", "node:crypto", "node:net", "node:tls"]),
  "embedded/": room(["domain/", "embedded/"], ["pg", "node:*"]),
  "http2/": room(["http2/"], ["node:net", "node:tls", "node:buffer", "node:http", "node:http2"]),
  "sessions/": room([...CORE, "sessions/"], ["jose", "openid-client", "node:*"]),
  "rpc/": room(
    [...CORE, "gen/", "rpc/"],
    [...CONNECT, "@bufbuild/protovalidate", "node:crypto", "node:net", "node:timers/promises"],
  ),
  "listen/": room(
    ["domain/start-error.ts", "rpc/", "http2/", "listen/"],
    [...CONNECT, "@connectrpc/connect-node", "node:*"],
  ),
  "data-plane/": room([...TRANSPORT, "data-plane/"], [...CONNECT, "node:*"]),
  "admin-api/": room([...TRANSPORT, "admin-api/"], [...CONNECT, "node:*"]),
  "ops/": room([...TRANSPORT, "ops/"], [...CONNECT, "node:*"]),
  "listeners.ts": room(COMPOSITION, CONNECT),
  "callers.ts": room(COMPOSITION, []),
  "sallyport.ts": room([...COMPOSITION, "build.ts"], ["node:crypto"]),
  "usable.ts": room(COMPOSITION, []),
  "traced.ts": room(COMPOSITION, []),
  "build.ts": room([], ["node:fs", "node:path"]),
  "start-text.ts": room([], []),
  "workers/": room(["domain/", "telemetry/", "config/", "listen/", "workers/"], ["node:cluster"]),
  "serve-worker.ts": room([...COMPOSITION, "build.ts", "serve.ts"], ["node:*"]),
  "serve.ts": room([...COMPOSITION, "build.ts", "start-text.ts"], ["node:*"]),
  "commands.ts": room(COMPOSITION, ["node:*"]),
  "doctor/": room([...COMPOSITION, "doctor/"], ["node:*"]),
  "main.ts": room(
    [
      "build.ts",
      "domain/errors.ts",
      "domain/start-error.ts",
      "config/",
      "serve.ts",
      "serve-worker.ts",
      "commands.ts",
      "doctor/",
      "cli/",
    ],
    ["node:*"],
  ),
  "cli/": room(
    // The grammar of durations is the configuration's too.
    ["gen/", "cli/", "domain/duration.ts", "domain/visible.ts"],
    ["commander", "@connectrpc/connect", "@connectrpc/connect-node", "@bufbuild/protobuf", "node:*"],
  ),
  "gen/": room(["gen/"], ["@bufbuild/protobuf", "@bufbuild/protovalidate"]),
};

interface Scan {
  readonly what: string;
  readonly pattern: RegExp;
  /** The rooms or files that may contain it. */
  readonly except: readonly string[];
  /** Looks at comments too: one that gives the reason is enough. */
  readonly comments?: boolean;
}

/** Forbidden constructs, and the only places that may contain them. */
const SCANS: readonly Scan[] = [
  { what: "makes a ConnectError", pattern: /new ConnectError\(|ConnectError\.from\(/, except: ["rpc/", "cli/"] },
  { what: "names a gRPC code", pattern: /\bCode\.[A-Z]/, except: ["rpc/", "cli/"] },
  { what: "reads process.env", pattern: /process\.env\b/, except: ["main.ts"] },
  {
    what: "reads a clock of its own",
    // The transport measures time on its own connections; the thinning of log lines decides nothing.
    pattern: /\bDate\.now\(|\bnew Date\(\)|\bperformance\.(?:now|timeOrigin)\b|\bhrtime\b/,
    except: ["sallyport.ts", "cli/", "http2/", "telemetry/"],
  },
  // A path of the program itself does not come from a peer; the URL of an issuer comes from the operator.
  {
    what: "parses a URL",
    pattern: /new URL\((?!"[^"]*", import\.meta\.url|name, FOLDER)/,
    except: ["cli/", "sessions/fetch-document.ts", "sessions/sign-in.ts"],
  },
  { what: "makes an HMAC beside Mac", pattern: /\bcreateHmac\(/, except: ["domain/mac.ts"] },
  { what: "gives createHmac a raw key", pattern: /\bcreateHmac\((?!"sha256", this\.#key\))/, except: [] },
  { what: "selects *", pattern: /\bselect\s+(?:\w+\.)?\*/i, except: [] },
  {
    what: "uses console",
    pattern: /(?<!\.)\bconsole\.(?:assert|debug|dir|error|info|log|table|trace|warn)\b/,
    except: [],
  },
  // Jitter only.
  {
    what: "uses Math.random",
    pattern: /\bMath\.random\b/,
    except: ["sallyport.ts", "http2/server/lifetime.ts", "listen/h2-branch.ts"],
  },
  { what: "has a default export", pattern: /\bexport default\b/, except: [] },
  { what: "swallows an error", pattern: /catch\s*(?:\([^)]*\)\s*)?\{\s*\}/, except: [], comments: true },
  {
    what: "reveals a secret",
    pattern: /\.reveal\(/,
    except: [
      "admin-api/exchange-endpoint.ts",
      "admin-api/token-admin.ts",
      "rpc/caller.ts",
      "sessions/sign-in.ts",
      "serve.ts",
      "commands.ts",
      "sallyport.ts",
      "revocation/canary-peer.ts",
    ],
  },
  { what: "has SQL", pattern: /\b(?:from|into|update) sallyport\.[a-z_]+/, except: ["postgres/"] },
  {
    what: "names envoy's types",
    pattern: /\benvoy\.(?:service|config|type)\./,
    except: ["data-plane/check/ext-authz.ts", "gen/"],
  },
  { what: "is an enum", pattern: /^\s*(?:export )?(?:const )?enum \w/m, except: ["gen/"] },
  { what: "disables a check of the compiler", pattern: /@ts-(?:ignore|nocheck|expect-error)/, except: ["gen/"] },
];

function files(): string[] {
  return readdirSync(SRC, { recursive: true, encoding: "utf8" })
    .map((path) => path.replaceAll("\\", "/"))
    .filter((path) => path.endsWith(".ts"))
    .sort();
}

const fits = (name: string, list: readonly string[]) => list.some((one) => name.startsWith(one));

function roomOf(file: string): string | undefined {
  return Object.keys(ROOMS)
    .filter((name) => file.startsWith(name))
    .sort((a, b) => b.length - a.length)[0];
}

/** What a file imports, as it writes it. */
function importsOf(source: string): string[] {
  const found = withoutComments(source).matchAll(
    /^(?:(?:import|export)\b[^;"]*?\bfrom |import )"([^"\n]+)"|\bimport\("([^"\n]+)"\)/gm,
  );
  return [...found].map(([, statically, dynamically]) => (statically ?? dynamically)!);
}

/** The files of `src/` that a file imports. */
function ownImports(file: string, source: string): string[] {
  return importsOf(source)
    .filter((target) => target.startsWith("."))
    .map((target) => resolved(file, target));
}

const resolved = (file: string, target: string) => posix.normalize(posix.join(posix.dirname(file), target));

/** One line per import that the table does not allow. */
function importsOutOfRoom(file: string, source: string): string[] {
  const name = roomOf(file);
  if (name === undefined) return [`${file} is in no room of the table`];
  // A file of a room inside a room has the rights of both.
  const rooms = Object.keys(ROOMS).filter((one) => file.startsWith(one));
  const inside = rooms.flatMap((one) => ROOMS[one]!.inside);
  const outside = rooms.flatMap((one) => ROOMS[one]!.outside);
  return importsOf(source).flatMap((target) => {
    if (target.startsWith(".")) {
      const path = resolved(file, target);
      return path === file || fits(path, inside) ? [] : [`${file} may not import ${path}`];
    }
    const known = outside.some(
      (one) => one === target || target.startsWith(`${one}/`) || (one === "node:*" && target.startsWith("node:")),
    );
    return known ? [] : [`${file} may not import ${target}`];
  });
}

/** One line per forbidden construct. */
function refusedOnSight(file: string, source: string): string[] {
  const code = withoutComments(source);
  return SCANS.filter(
    ({ pattern, except, comments }) => !fits(file, except) && pattern.test(comments ? source : code),
  ).map(({ what }) => `${file} ${what}`);
}

function withoutComments(source: string): string {
  return source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/(^|[^:"'`\\])\/\/.*$/gm, "$1");
}

const sources = files().map((file) => ({ file, source: readFileSync(join(SRC, file), "utf8") }));

test("every file imports only what the table allows", () => {
  expect(sources.flatMap(({ file, source }) => importsOutOfRoom(file, source))).toEqual([]);
});

/** The files that import one another in a circle, types included: the first circle that is found. */
function circle(imports: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): string[] => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return [];
    path.push(file);
    for (const next of imports.get(file) ?? []) {
      const found = visit(next);
      if (found.length > 0) return found;
    }
    path.pop();
    done.add(file);
    return [];
  };
  for (const file of imports.keys()) {
    const found = visit(file);
    if (found.length > 0) return found;
  }
  return [];
}

test("no files import one another in a circle, types included", () => {
  const imports = new Map(sources.map(({ file, source }) => [file, ownImports(file, source)]));
  expect([...imports.values()].flat().length).toBeGreaterThan(500);
  expect(circle(imports)).toEqual([]);
  expect(circle(new Map([["a", ["b"]], ["b", ["c"]], ["c", ["b"]]]))).toEqual(["b", "c", "b"]); // biome-ignore format: one line
});

test("forbidden constructs stand only in their allowed places", () => {
  const ours = sources.filter(({ file }) => !file.startsWith("gen/"));
  expect(ours.flatMap(({ file, source }) => refusedOnSight(file, source))).toEqual([]);
});

test("the scan finds what it looks for", () => {
  expect(
    importsOutOfRoom("data-plane/check/http-check.ts", 'import { Postgres } from "../../postgres/pool.ts";'),
  ).toEqual(["data-plane/check/http-check.ts may not import postgres/pool.ts"]);
  expect(importsOutOfRoom("validation/lookup.ts", 'const pg = await import("pg");')).toEqual([
    "validation/lookup.ts may not import pg",
  ]);
  expect(importsOutOfRoom("domain/a.ts", 'import { b } from "./b.ts"; // from "pg"')).toEqual([]);
  expect(importsOutOfRoom("attic/a.ts", "")).toEqual(["attic/a.ts is in no room of the table"]);
  for (const [line, what] of [
    ["const e = process.env;", "reads process.env"],
    ["const t = Date.now();", "reads a clock of its own"],
    ["new URL(req.url)", "parses a URL"],
    ['createHmac("sha256", Buffer.alloc(32))', "gives createHmac a raw key"],
    ["select * from t", "selects *"],
    ["try { a() } catch { }", "swallows an error"],
    ["say(tokenString.reveal())", "reveals a secret"],
    ["throw new ConnectError('x')", "makes a ConnectError"],
  ] as const) {
    expect(refusedOnSight("validation/x.ts", line)).toContain(`validation/x.ts ${what}`);
  }
});

test("what a file exports, another file of the program uses, or the file itself does", () => {
  const ours = sources
    .filter(({ file }) => !file.startsWith("gen/"))
    .map(({ file, source }) => ({ file, code: withoutComments(source) }));
  const unused = ours.flatMap(({ file, code }) =>
    [...code.matchAll(/^export (?:async )?(?:function\*?|const|class) (\w+)/gm)]
      .map((found) => found[1]!)
      .filter((name) => {
        const word = new RegExp(`\\b${name}\\b`, "g");
        const elsewhere = ours.some((one) => one.file !== file && word.test(one.code));
        return !elsewhere && code.match(word)!.length === 1;
      })
      .map((name) => `${file}: ${name}`),
  );
  // Tests hold the documentation to these tables.
  expect(unused).toEqual(["rpc/errors.ts: errorTable", "rpc/transport-errors.ts: transportFailures"]);
});

/** Options that only tests set: they make a limit small. */
const SET_BY_TESTS = ["redis/client.ts: commandMs", "rpc/admission.ts: concurrency"];

/** The optional members of the options in a file that no other file sets. */
function unsetOptions(ours: readonly { file: string; code: string }[]): string[] {
  return ours.flatMap(({ file, code }) =>
    [...code.matchAll(/^(?:export )?interface \w*(?:Options|Deps|Hooks)\b[^{]*\{(.*?)^\}/gms)]
      .flatMap(([, members]) => [...members!.matchAll(/^ {2}(?:readonly )?(\w+)\?[:(]/gm)].map(([, name]) => name!))
      .filter((name) => {
        const set = new RegExp(`(?<![\\w.?])${name}(?:: |,| \\}|\\()`);
        return !ours.some((other) => other.file !== file && set.test(other.code));
      })
      .map((name) => `${file}: ${name}`),
  );
}

test("every optional option is set by another file, or by tests that are named here", () => {
  // In `cli/` a person sets the options, through commander.
  const ours = sources
    .filter(({ file }) => !file.startsWith("cli/"))
    .map(({ file, source }) => ({ file, code: withoutComments(source) }));
  expect(unsetOptions(ours)).toEqual(SET_BY_TESTS);
  const options = {
    file: "a.ts",
    code: "interface AOptions {\n  readonly dead?: string;\n  readonly used?: string;\n}",
  };
  expect(unsetOptions([options, { file: "b.ts", code: "a({ used: 1 })" }])).toEqual(["a.ts: dead"]);
});

test("files over 300 lines are listed, so that somebody looks again", () => {
  const long = sources
    .filter(({ file }) => !file.startsWith("gen/"))
    .map(({ file, source }) => ({ file, lines: source.split("\n").length - 1 }))
    .filter(({ lines }) => lines > 300);
  for (const { file, lines } of long) process.stdout.write(`over 300 lines: src/${file} (${lines})\n`);
  expect(sources.length).toBeGreaterThan(100);
});

test("migrations select columns by name", () => {
  const folder = join(SRC, "postgres/migrations");
  for (const file of readdirSync(folder)) {
    expect(statSync(join(folder, file)).isFile()).toBe(true);
    expect(readFileSync(join(folder, file), "utf8")).not.toMatch(/\bselect\s+\*/i);
  }
});

test("console/ and src/ do not import each other, and console/ imports nothing of a server", () => {
  const folder = join(SRC, "../console");
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) => /\.tsx?$/.test(path));
  const imports = files.flatMap((file) =>
    importsOf(readFileSync(join(folder, file), "utf8")).map((target) => ({ file, target })),
  );
  const own = imports.filter(({ target }) => target.startsWith("."));
  const outside = own.filter(({ file, target }) => resolved(file, target).startsWith(".."));
  expect(outside).toEqual([]);
  const allowed =
    /^(?:preact(?:\/hooks)?|@preact\/signals|@connectrpc\/connect(?:-web)?|@bufbuild\/protobuf(?:\/.+)?)$/;
  const foreign = imports.filter(({ target }) => !target.startsWith(".") && !allowed.test(target));
  expect(foreign).toEqual([]);
  expect(imports.length).toBeGreaterThan(5);
  const back = sources.filter(({ source }) => /["']\.\.?\/[^"']*\bconsole\/(?:src|gen)\//.test(source));
  expect(back).toEqual([]);
});
