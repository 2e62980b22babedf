import cluster from "node:cluster";
import { parseArgs } from "node:util";
import { build } from "./build.ts";
import type { Config } from "./config/schema.ts";
import { AppError } from "./domain/errors.ts";
import { StartError } from "./domain/start-error.ts";

/*
 * The program. `serve`, `migrate`, `bootstrap`, `reconcile`, `restore`, `keys`, `check-config` and `doctor` are here; any
 * other word is a command of the client.
 * Only this file reads the process's environment and arguments, and ends the process.
 */

/** Exit codes, from sysexits.h where it has one. */
const EXIT = { ok: 0, no: 1, usage: 2, unavailable: 69, bug: 70, config: 78 } as const;

/** The last argument of a process that the server itself started. */
const WORKER = "--worker";

const HELP = {
  serve: "sallyport serve [--data DIR] [--config FILE]\n\nRuns the server: the data, admin and ops listeners.",
  migrate: "sallyport migrate [--config FILE]\n\nBrings the database to the schema of this program.",
  bootstrap:
    "sallyport bootstrap [--ttl 30d] [--again] [--data DIR] [--config FILE]\n\n" +
    "Prints the first admin token, alone, once. --again mints another (needs the database owner's credentials).",
  reconcile:
    "sallyport reconcile [--all] [--apply ID | --dismiss ID --reason TEXT | --accept-gap | --without-journal] [--config FILE]\n\n" +
    "Lists the changes of authority that the database had lost and that wait for a decision; exit code 1 while there are some.\n" +
    "--apply does one as far as it takes rights away, --dismiss ends one without that, --all lists all.\n" +
    "--accept-gap allows tokens although the journal lacks something, --without-journal although it cannot be reached. Both hold\n" +
    "until the database restarts; without journal.url in the configuration the second holds for good.",
  restore:
    "sallyport restore [--cut-all] [--config FILE]\n\n" +
    "Makes a database usable in which a backup was put back, while no instance runs: does again what the journal has and the\n" +
    "backup lacks. Needs the credentials of the schema's owner. --cut-all ends all tokens instead, where there is no journal.",
  keys:
    "sallyport keys status [--data DIR] [--config FILE]\n\n" +
    "Shows each pepper and signing key of the configuration: if it is current, how many instances know it, how many live\n" +
    "tokens rest on it, and when the last of them ends.",
  "check-config":
    "sallyport check-config [--connect] [--config FILE]\n\nChecks the configuration and prints it, secrets left out. Exit code 78 if it cannot be used.\n" +
    "--connect tries the database too (credentials, rights, keyring), and the journal, and changes nothing there; 69 if it is unavailable.",
  doctor:
    "sallyport doctor [--json] [--data DIR] [--config FILE]\n\n" +
    "Looks for what is wrong with the configuration, this machine, the database, its journal and Redis, in at most 5 s.\n" +
    "It changes nothing. A line per check: ok, warn or fail, the check, what was found and what to do. Exit code 1 if a\n" +
    "check fails, 78 if the configuration cannot be read.",
};

if (Number.parseInt(process.versions.node, 10) < 24) {
  end(
    EXIT.config,
    `Node ${process.version} is too old: 24 or newer is needed (npm ci brings one; use npm start or npm run)`,
  );
} else {
  process.exitCode = await main(process.argv.slice(2)).catch(explain);
  // All work is done by now. A handle that a library keeps open must not keep the process alive.
  setTimeout(() => process.exit(), 5_000).unref();
}

async function main(argv: readonly string[]): Promise<number> {
  const [word, ...rest] = argv;
  switch (word) {
    case "serve":
      if (cluster.isWorker && rest.at(-1) === WORKER) {
        return (await import("./serve-worker.ts")).serveWorker(process.env);
      }
      return run(word, rest);
    case "migrate":
    case "bootstrap":
    case "reconcile":
    case "restore":
    case "check-config":
    case "doctor":
      return run(word, rest);
    case "keys":
      if (rest[0] === "status") return run(word, rest.slice(1));
      return rest.some((one) => one === "--help" || one === "-h")
        ? run(word, ["--help"])
        : say(EXIT.usage, "the only command of keys is status (sallyport keys --help)");
    default: {
      const { runCli } = await import("./cli/main.ts");
      const { stdin, stdout, stderr, env } = process;
      const { version, commit } = build();
      const text = `sallyport ${version} (commit ${commit}, node ${process.version})`;
      return runCli(argv, { stdin, stdout, stderr, env, version: text });
    }
  }
}

async function run(word: keyof typeof HELP, rest: readonly string[]): Promise<number> {
  let options: {
    data?: string;
    config?: string;
    ttl?: string;
    again?: boolean;
    connect?: boolean;
    json?: boolean;
    all?: boolean;
    "cut-all"?: boolean;
    apply?: string;
    dismiss?: string;
    reason?: string;
    "accept-gap"?: boolean;
    "without-journal"?: boolean;
    help?: boolean;
  };
  try {
    const { values } = parseArgs({
      args: [...rest],
      options: {
        data: { type: "string" },
        config: { type: "string" },
        help: { type: "boolean", short: "h" },
        ...(word === "bootstrap" && { ttl: { type: "string" }, again: { type: "boolean" } }),
        ...(word === "restore" && { "cut-all": { type: "boolean" } }),
        ...(word === "reconcile" && {
          all: { type: "boolean" },
          apply: { type: "string" },
          dismiss: { type: "string" },
          reason: { type: "string" },
          "accept-gap": { type: "boolean" },
          "without-journal": { type: "boolean" },
        }),
        ...(word === "check-config" && { connect: { type: "boolean" } }),
        ...(word === "doctor" && { json: { type: "boolean" } }),
      },
    });
    options = values as typeof options;
  } catch (error) {
    return say(EXIT.usage, `${(error as Error).message.split(". ")[0]} (sallyport ${word} --help)`);
  }
  if (options.help) {
    process.stdout.write(`${HELP[word]}\n`);
    return EXIT.ok;
  }
  const { loadConfig } = await import("./config/load.ts");
  const load = (): Config => {
    const env = { ...process.env };
    if (options.data !== undefined) env["SALLYPORT_EMBEDDED__DATA_DIR"] = options.data;
    return loadConfig(options.config, env);
  };
  if (word === "doctor") {
    const { doctorCommand } = await import("./doctor/doctor.ts");
    const code = await doctorCommand(load, options.json ?? false);
    // A server that does not answer must not keep the process alive.
    setTimeout(() => process.exit()).unref();
    return code;
  }
  const config = load();
  switch (word) {
    case "serve":
      return (await import("./serve.ts")).serve(config, load, process.env);
    case "migrate":
      return (await import("./commands.ts")).migrateCommand(config);
    case "bootstrap":
      return (await import("./commands.ts")).bootstrapCommand(config, options.ttl, options.again ?? false);
    case "restore":
      return (await import("./commands.ts")).restoreCommand(config, options["cut-all"] ?? false);
    case "keys":
      return (await import("./commands.ts")).keysCommand(config);
    case "reconcile": {
      const { all = false, apply, dismiss, reason, "accept-gap": gap, "without-journal": without } = options;
      if (gap && without) return say(EXIT.usage, "--accept-gap or --without-journal, not both");
      const { reconcileCommand } = await import("./commands.ts");
      return reconcileCommand(config, {
        all,
        ...(apply !== undefined && { apply }),
        ...(dismiss !== undefined && { dismiss }),
        ...(reason !== undefined && { reason }),
        ...((gap || without) && { waive: gap ? ("gap" as const) : ("journal" as const) }),
      });
    }
    case "check-config":
      return (await import("./commands.ts")).checkConfigCommand(config, options.connect ?? false);
  }
}

/** Clear lines on stderr for everything that can go wrong at start, and the exit code. Never a stack, never a value. */
function explain(error: unknown): number {
  if (error instanceof StartError) return say(error.exitCode, ...error.problems);
  if (error instanceof AppError) return say(EXIT.unavailable, error.message);
  const { name = typeof error, stack = "" } = error as Partial<Error>;
  return say(EXIT.bug, `internal error (${name}): ${stack}`);
}

function say(code: number, ...lines: readonly string[]): number {
  for (const line of lines) process.stderr.write(`sallyport: ${line}\n`);
  return code;
}

function end(code: number, line: string): void {
  process.exitCode = say(code, line);
}
