import pg from "pg";

/*
 * The session settings that this program depends on. A direct connection asks for them in its startup packet. A pooler
 * shares server connections with other programs, so nothing is set there, and the start checks the present values.
 */

export interface SessionSetting {
  readonly name: string;
  readonly value: string;
  /** The consequence of another value. */
  readonly otherwise: string;
  /** A condition on the setting `v` that other good values meet. Without it, only `value` is good. */
  readonly good?: string;
}

export const SESSION_SETTINGS: readonly SessionSetting[] = [
  { name: "jit", value: "off", otherwise: "PostgreSQL can spend longer on compiling a statement than it may take" },
  { name: "datestyle", value: "ISO", good: "v like 'ISO%'", otherwise: "times cannot be read" },
  { name: "bytea_output", value: "hex", otherwise: "keys cannot be read" },
  { name: "extra_float_digits", value: "1", good: "v::int >= 0", otherwise: "times lose their digits" },
  {
    name: "search_path",
    value: "pg_catalog",
    good: "array_position(array(select s from unnest(current_schemas(true)) s where s !~ '^pg_temp'), 'pg_catalog') = 1",
    otherwise: "functions of another schema stand in for PostgreSQL's own",
  },
  { name: "standard_conforming_strings", value: "on", otherwise: "keys of the log are made wrongly" },
  { name: "default_transaction_isolation", value: "read committed", otherwise: "statements fail beside others" },
  { name: "row_security", value: "on", otherwise: "statements fail where a table has policies" },
  // The warning says when a standby did not confirm a commit.
  {
    name: "client_min_messages",
    value: "notice",
    good: "v <> 'error'",
    otherwise: "a commit that was not confirmed looks like one that was",
  },
  { name: "exit_on_error", value: "off", otherwise: "each refusal of a statement ends the connection" },
  {
    name: "lock_timeout",
    value: "0",
    good: "v in ('0', '0ms') or v::interval >= '2s'",
    otherwise: "changes fail beside others",
  },
  {
    name: "statement_timeout",
    value: "0",
    good: "v in ('0', '0ms') or v::interval >= '5s'",
    otherwise: "statements end before their time",
  },
];

/** Set where possible, for the server's logs. Times are read correctly in every time zone. */
const ALSO: readonly Pick<SessionSetting, "name" | "value">[] = [{ name: "timezone", value: "UTC" }];

/** Startup options as the server reads them, for connections that are not shared. */
const STARTUP_OPTIONS: readonly string[] = [...SESSION_SETTINGS, ...ALSO].map(startupOption);

function startupOption({ name, value }: Pick<SessionSetting, "name" | "value">): string {
  return `-c ${name}=${value.replaceAll(" ", "\\ ")}`;
}

const IN_URL = /([?&]options=)([^&]*)/;

/** The URL and the startup options of a direct connection. The operator's options stay, and come first. */
export function startupSettings(
  url: string,
  statementMs?: number,
): Pick<pg.ClientConfig, "connectionString" | "options"> {
  const ours = [...STARTUP_OPTIONS];
  if (statementMs !== undefined) ours.push(startupOption({ name: "statement_timeout", value: String(statementMs) }));
  // The driver uses PGOPTIONS only if there are no other options.
  const given = IN_URL.exec(url)?.[2];
  if (given === undefined) {
    const options = [asRead(url).options ?? "", ...ours].join(" ").trim();
    return { connectionString: url, options };
  }
  // The URL wins over all other settings of the driver.
  const added = encodeURIComponent(` ${ours.join(" ")}`);
  return { connectionString: url.replace(IN_URL, (_, name: string) => `${name}${given}${added}`) };
}

/** True if `url` leads to another host or port than `directUrl`: a pooler. A different login is none. */
export function isShared(url: string, directUrl: string | undefined): boolean {
  return directUrl !== undefined && place(url) !== place(directUrl);
}

function place(url: string): string {
  const { host, port } = asRead(url);
  return `${host}:${port}`;
}

/** Reads the URL and libpq's variables as the driver does. Does not connect. */
function asRead(url: string): { host: string; port: number; options?: string } {
  const client = new pg.Client({ connectionString: url });
  return (client as unknown as { connectionParameters: ReturnType<typeof asRead> }).connectionParameters;
}

/** Columns `login` and `wrong`: the settings of this session that have another value. */
export const CHECK_SESSION = `
select format('%I', session_user) as login, array(
  ${SESSION_SETTINGS.map(
    ({ name, value, good }) =>
      `select '${name}' from (select current_setting('${name}', true) as v) s
       where (${good ?? `v = '${value}'`}) is not true`,
  ).join(" union all ")}
) as wrong`;

/** The message for the operator if sessions behind a pooler have wrong settings. Undefined: none is wrong. */
export function sessionProblem(row: { login: string; wrong: readonly string[] }): string | undefined {
  const wrong = SESSION_SETTINGS.filter(({ name }) => row.wrong.includes(name));
  if (wrong.length === 0) return undefined;
  const lines = wrong.map(({ name, value }) => `ALTER ROLE ${row.login} SET ${name} = ${quoted(value)};`);
  return (
    `database.url leads through a pooler, and its sessions do not have ${wrong.map(({ name, value }) => `${name}=${value}`).join(", ")}: ` +
    `${wrong.map(({ otherwise }) => otherwise).join("; ")}. Run: ${lines.join(" ")} Then make the pooler reconnect`
  );
}

function quoted(value: string): string {
  return /^\w+$/.test(value) ? value : `'${value}'`;
}
