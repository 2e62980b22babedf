import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, posix } from "node:path";
import { expect, test } from "vitest";

const SRC = join(import.meta.dirname, "../src");

interface Room {
  /** Rooms and files of `src/` that it may import from. */
  readonly inside: readonly string[];
  /** Packages; `node:*` stands for every module of Node. */
  readonly outside: readonly string[];
}

const room = (inside: string[], outside: string[]): Room => ({ inside, outside });
/** The composition layer: what puts rooms together sees all of them. */
const COMPOSITION = [
  "domain/",
  "ports.ts",
  "app/",
  "postgres/",
  "redis/",
  "services/",
  "http2/",
  "servers/",
  "gen/",
  "config.ts",
  "telemetry.ts",
  "sallyport.ts",
  "doors.ts",
  "data-folder.ts",
  "first-admin.ts",
  "canary-peer.ts",
  "usable.ts",
];

/** Who may import what: a room is a folder or a file of `src/`, the longest name that fits is its room. */
const ROOMS: Readonly<Record<string, Room>> = {
  "domain/": room(["domain/"], ["node:crypto", "node:zlib", "node:net", "node:util"]),
  "ports.ts": room(["domain/"], []),
  "app/": room(["domain/", "app/", "ports.ts"], ["node:crypto"]),
  "postgres/": room(
    ["domain/", "ports.ts", "postgres/"],
    ["pg", "node:fs", "node:crypto", "node:events", "node:net", "node:timers/promises"],
  ),
  "postgres/embedded": room(["postgres/embedded"], ["node:*"]),
  "redis/": room(["domain/", "ports.ts", "redis/"], ["ioredis", "node:crypto", "node:net", "node:tls"]),
  "services/": room(
    ["domain/", "ports.ts", "app/", "gen/", "services/"],
    ["@connectrpc/connect", "@bufbuild/protobuf", "@bufbuild/protovalidate", "node:crypto", "node:net"],
  ),
  "http2/": room(["http2/"], ["node:net", "node:tls", "node:buffer", "node:http", "node:http2"]),
  "servers/": room(
    // Of app/ the types of what is handed to the paths that are no RPC.
    ["services/", "http2/", "ports.ts", "servers/", "app/validate.ts", "app/token-manager.ts"],
    ["node:*", "@connectrpc/connect", "@connectrpc/connect-node", "@bufbuild/protobuf"],
  ),
  "config.ts": room(["config-sources.ts"], ["zod", "node:net"]),
  "config-sources.ts": room([], ["zod", "yaml", "node:fs", "node:net"]),
  "telemetry.ts": room(["domain/", "ports.ts", "validation-metrics.ts"], ["pino", "prom-client"]),
  "validation-metrics.ts": room(["domain/", "ports.ts"], ["prom-client"]),
  "data-folder.ts": room(["domain/"], ["node:*"]),
  "first-admin.ts": room(["domain/", "postgres/", "ports.ts"], []),
  "doors.ts": room(COMPOSITION, ["@bufbuild/protobuf", "@connectrpc/connect", "node:net", "node:os", "node:v8"]),
  "sallyport.ts": room(COMPOSITION, ["node:crypto"]),
  "canary-peer.ts": room(["config.ts", "domain/"], ["node:http", "node:https", "node:fs"]),
  "usable.ts": room(COMPOSITION, []),
  "serve.ts": room(COMPOSITION, ["node:*"]),
  "commands.ts": room(COMPOSITION, ["node:*"]),
  "main.ts": room(["config.ts", "serve.ts", "commands.ts", "cli/"], ["node:*"]),
  "cli/": room(
    ["gen/", "cli/"],
    ["commander", "@connectrpc/connect", "@connectrpc/connect-node", "@bufbuild/protobuf", "node:*"],
  ),
  "client/": room(["gen/", "client/"], ["@grpc/grpc-js", "@connectrpc/connect", "@bufbuild/protobuf", "node:*"]),
  "gen/": room(["gen/"], ["@bufbuild/protobuf", "@bufbuild/protovalidate"]),
};

interface Scan {
  readonly what: string;
  readonly pattern: RegExp;
  /** Rooms or files that may. */
  readonly except: readonly string[];
  /** Looks at comments too: one that gives the reason is enough. */
  readonly comments?: boolean;
}

/** What is refused on sight, and where alone it may stand. */
const SCANS: readonly Scan[] = [
  { what: "makes a ConnectError", pattern: /new ConnectError\(|ConnectError\.from\(/, except: ["services/", "cli/"] },
  { what: "names a gRPC code", pattern: /\bCode\.[A-Z]/, except: ["services/", "cli/"] },
  { what: "reads process.env", pattern: /process\.env\b/, except: ["main.ts"] },
  {
    what: "reads a clock of its own",
    // The transport keeps time of its own connections; a log line's thinning decides nothing.
    pattern: /\bDate\.now\(|\bnew Date\(\)|\bperformance\.(?:now|timeOrigin)\b|\bhrtime\b/,
    except: ["sallyport.ts", "cli/", "http2/", "telemetry.ts"],
  },
  // A path of the program itself is not what a peer sent.
  { what: "parses a URL", pattern: /new URL\((?!"[^"]*", import\.meta\.url|name, FOLDER)/, except: ["cli/"] },
  { what: "makes an HMAC beside Mac", pattern: /\bcreateHmac\(/, except: ["domain/mac.ts"] },
  { what: "gives createHmac a raw key", pattern: /\bcreateHmac\((?!"sha256", this\.#key\))/, except: [] },
  { what: "selects *", pattern: /\bselect\s+(?:\w+\.)?\*/i, except: [] },
  { what: "uses console", pattern: /\bconsole\./, except: [] },
  // Jitter only.
  {
    what: "uses Math.random",
    pattern: /\bMath\.random\b/,
    except: ["sallyport.ts", "http2/lifetime.ts", "servers/h2-branch.ts"],
  },
  { what: "has a default export", pattern: /\bexport default\b/, except: [] },
  { what: "swallows an error", pattern: /catch\s*(?:\([^)]*\)\s*)?\{\s*\}/, except: [], comments: true },
  {
    what: "reveals a secret",
    pattern: /\.reveal\(/,
    except: [
      "services/token-admin.ts",
      "services/caller.ts",
      "serve.ts",
      "commands.ts",
      "sallyport.ts",
      "canary-peer.ts",
    ],
  },
  { what: "has SQL", pattern: /\b(?:from|into|update) sallyport\.[a-z_]+/, except: ["postgres/"] },
  {
    what: "names envoy's types",
    pattern: /\benvoy\.(?:service|config|type)\./,
    except: ["services/ext-authz.ts", "services/caller.ts", "services/admission.ts", "servers/", "gen/"],
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

/** One line per import that the table does not allow. */
function importsOutOfRoom(file: string, source: string): string[] {
  const name = roomOf(file);
  if (name === undefined) return [`${file} is in no room of the table`];
  // A file of a room inside a room has the rights of both.
  const rooms = Object.keys(ROOMS).filter((one) => file.startsWith(one));
  const inside = rooms.flatMap((one) => ROOMS[one]!.inside);
  const outside = rooms.flatMap((one) => ROOMS[one]!.outside);
  const imports = withoutComments(source).matchAll(
    /^(?:(?:import|export)\b[^;"]*?\bfrom |import )"([^"\n]+)"|\bimport\("([^"\n]+)"\)/gm,
  );
  return [...imports].flatMap(([, statically, dynamically]) => {
    const target = statically ?? dynamically;
    if (target!.startsWith(".")) {
      const path = posix.normalize(posix.join(posix.dirname(file), target!));
      return path === file || fits(path, inside) ? [] : [`${file} may not import ${path}`];
    }
    const known = outside.some(
      (one) => one === target || target!.startsWith(`${one}/`) || (one === "node:*" && target!.startsWith("node:")),
    );
    return known ? [] : [`${file} may not import ${target}`];
  });
}

/** One line per thing that is refused on sight. */
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

test("every file imports only what its room may", () => {
  expect(sources.flatMap(({ file, source }) => importsOutOfRoom(file, source))).toEqual([]);
});

test("nothing stands where it is refused on sight", () => {
  const ours = sources.filter(({ file }) => !file.startsWith("gen/"));
  expect(ours.flatMap(({ file, source }) => refusedOnSight(file, source))).toEqual([]);
});

test("the scan sees what it looks for", () => {
  expect(importsOutOfRoom("services/http-check.ts", 'import { Postgres } from "../postgres/pool.ts";')).toEqual([
    "services/http-check.ts may not import postgres/pool.ts",
  ]);
  expect(importsOutOfRoom("app/lookup.ts", 'const pg = await import("pg");')).toEqual([
    "app/lookup.ts may not import pg",
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
    expect(refusedOnSight("app/x.ts", line)).toContain(`app/x.ts ${what}`);
  }
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
