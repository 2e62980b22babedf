// cli/: the client. It uses only the listeners, and knows nothing of the program but its generated API.
import { Command, CommanderError, Option } from "commander";
import { visible } from "../domain/visible.ts";
import { addAccess } from "./access.ts";
import { addAudit } from "./audit.ts";
import { addCompletion } from "./completion.ts";
import { ADMIN_ADDRESS, EMBEDDED_TOKEN_FILE } from "./connect.ts";
import { EXIT, explain, type Situation, usage } from "./failure.ts";
import { duration } from "./flags.ts";
import { withoutSecrets } from "./output.ts";
import { addPrincipals } from "./principals.ts";
import { addRoles } from "./roles.ts";
import { addRules } from "./rules.ts";
import { addServer } from "./server.ts";
import { type Body, type Globals, type Io, type Run, Session } from "./session.ts";
import { addTenants } from "./tenants.ts";
import { addTokens } from "./tokens.ts";
import { addValidate } from "./validate.ts";

const SERVER_COMMANDS = {
  serve: "run the server: the data, admin and ops listeners",
  migrate: "migrate the database to the schema of this program",
  bootstrap: "print the first admin token, once; --again mints another",
  keys: "show each pepper and signing key, its live tokens, and the instances that know it: keys status",
  reconcile: "list changes that the database had lost and that wait for a decision, or decide about one",
  restore: "make a database usable in which a backup was put back",
  "check-config": "check the configuration and print it, secrets left out",
  doctor: "look for what is wrong with the configuration, this machine, the database and Redis",
};

const AFTER_HELP = `
The credential is --token-file or --session-file, else SALLYPORT_TOKEN or SALLYPORT_SESSION, else
${EMBEDDED_TOKEN_FILE} if it exists.
Durations: 90d, 36h, 30m, 15s. Exit codes: 0, 1 a command said no, 2 usage, 69 unavailable, 70 a bug.`;

/**
 * Runs one client command, or prints help. `argv` starts after the program's name. Returns the exit code (0, 1, 2, 69
 * or 70) and never throws: a failure is one line on `io.stderr`, without a stack and without a token string.
 */
export async function runCli(argv: readonly string[], io: Io): Promise<number> {
  // A reader such as `| head` may close the pipe early. The rest of the output is dropped.
  io.stdout.on("error", () => undefined);
  const situation: Situation = {};
  let exit: number = EXIT.ok;
  const run: Run =
    <Options>(body: Body<Options>) =>
    async (...given: unknown[]) => {
      const command = given.at(-1) as Command;
      const session = new Session(io, command.optsWithGlobals<Globals>(), situation);
      exit = (await body(session, command.opts() as Options, command.args)) ?? EXIT.ok;
    };
  try {
    await programOf(run, io).parseAsync(argv, { from: "user" });
    return exit;
  } catch (error) {
    // Commander has already printed its own text. Requested help is its only success.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    const failure = explain(error, situation);
    io.stderr.write(`sallyport: ${visible(withoutSecrets(failure.message))}\n`);
    return failure.exit;
  }
}

function programOf(run: Run, io: Io): Command {
  const program = new Command("sallyport")
    .description("Issues, lists, rotates, revokes and validates API tokens: the server, and its client.")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: (text) => io.stderr.write(text),
      outputError: (text, write) => write(withoutSecrets(text.replace(/^error: /, "sallyport: "))),
      getOutHelpWidth: () => widthOf(io.stdout),
      getErrHelpWidth: () => widthOf(io.stderr),
    })
    .configureHelp({ showGlobalOptions: true })
    .option(
      "--address <address>",
      `the admin listener; default SALLYPORT_ADDRESS, else ${ADMIN_ADDRESS}; or unix:/path`,
    )
    .option(
      "--token-file <file>",
      `your token (for validate: the token to validate); default SALLYPORT_TOKEN, else ${EMBEDDED_TOKEN_FILE} if it exists`,
    )
    .option("--session-file <file>", "your session: a JWT of a configured issuer; default SALLYPORT_SESSION")
    .option(
      "--session-tenant <id>",
      "the tenant in which your session calls, if it has several; default SALLYPORT_SESSION_TENANT",
    )
    .option("--ca-file <file>", "the CA to trust behind https://; default SALLYPORT_CA_FILE, else the system's CAs")
    .option("--cert-file <file>", "your client certificate; default SALLYPORT_CERT_FILE")
    .option("--key-file <file>", "and its key; default SALLYPORT_KEY_FILE")
    .option("--json", "protobuf JSON for programs")
    .version(io.version, "-V, --version", "print the version, the commit and the version of Node")
    .addOption(
      new Option("--timeout <duration>", "the longest wait for an answer").argParser(duration).default(15_000, "15s"),
    )
    .addHelpText("after", AFTER_HELP);

  program.commandsGroup("Server:");
  for (const [name, description] of Object.entries(SERVER_COMMANDS)) {
    // src/main.ts handles these commands if they are the first word. They are here for the help, and for a user who
    // wrote an option first.
    program
      .command(name)
      .description(description)
      .allowUnknownOption()
      .action(() => {
        throw usage(`${name} comes first: sallyport ${name} …`);
      });
  }
  program.commandsGroup("Client:");
  const client = [
    addTokens,
    addPrincipals,
    addTenants,
    addRoles,
    addRules,
    addAudit,
    addAccess,
    addServer,
    addValidate,
  ];
  for (const add of client) add(program, run);
  addCompletion(program, io);
  return program;
}

function widthOf(stream: NodeJS.WritableStream): number {
  return "columns" in stream && typeof stream.columns === "number" ? stream.columns : 100;
}
