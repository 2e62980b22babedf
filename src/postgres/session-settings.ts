import pg from "pg";

/*
 * The session settings that this program depends on. A direct connection asks for them in its startup packet. Behind a
 * pooler server connections are shared with other programs, so nothing is set there: the start checks what is in force.
 */

export interface SessionSetting {
  readonly name: string;
  readonly value: string;
  /** What happens with another value. */
  readonly otherwise: string;
}

export const SESSION_SETTINGS: readonly SessionSetting[] = [
  { name: "jit", value: "off", otherwise: "PostgreSQL can spend longer on compiling a statement than it may take" },
];

/** Startup options as the server reads them, for connections that are not shared. */
export const STARTUP_OPTIONS: readonly string[] = SESSION_SETTINGS.map(({ name, value }) => `-c ${name}=${value}`);

const IN_URL = /([?&]options=)([^&]*)/;

/** The URL and the startup options of a direct connection. Options of the operator stay, and come first. */
export function startupSettings(url: string): Pick<pg.ClientConfig, "connectionString" | "options"> {
  // The driver takes PGOPTIONS only where no other options are given.
  const given = IN_URL.exec(url)?.[2];
  if (given === undefined) {
    const options = [asRead(url).options ?? "", ...STARTUP_OPTIONS].join(" ").trim();
    return { connectionString: url, options };
  }
  // The driver believes the URL before anything else.
  const added = encodeURIComponent(` ${STARTUP_OPTIONS.join(" ")}`);
  return { connectionString: url.replace(IN_URL, (_, name: string) => `${name}${given}${added}`) };
}

/** Whether `url` leads through something else than `directUrl`: a pooler. Another login on one server is none. */
export function isShared(url: string, directUrl: string | undefined): boolean {
  return directUrl !== undefined && place(url) !== place(directUrl);
}

function place(url: string): string {
  const { host, port } = asRead(url);
  return `${host}:${port}`;
}

/** What the driver makes of the URL and libpq's variables. Connects to nothing. */
function asRead(url: string): { host: string; port: number; options?: string } {
  const client = new pg.Client({ connectionString: url });
  return (client as unknown as { connectionParameters: ReturnType<typeof asRead> }).connectionParameters;
}

/** Columns `login` and `wrong`: the settings of this session that have another value. */
export const CHECK_SESSION = `
select format('%I', session_user) as login, array(
  select s.name from (values ${SESSION_SETTINGS.map(({ name, value }) => `('${name}', '${value}')`).join(", ")})
    as s (name, value) where current_setting(s.name, true) is distinct from s.value
) as wrong`;

/** What the operator reads where sessions behind a pooler have other settings; undefined where all is well. */
export function sessionProblem(row: { login: string; wrong: readonly string[] }): string | undefined {
  const wrong = SESSION_SETTINGS.filter(({ name }) => row.wrong.includes(name));
  if (wrong.length === 0) return undefined;
  const lines = wrong.map(({ name, value }) => `ALTER ROLE ${row.login} SET ${name} = ${value};`);
  return (
    `database.url leads through a pooler, and its sessions do not have ${wrong.map(({ name, value }) => `${name}=${value}`).join(", ")}: ` +
    `${wrong.map(({ otherwise }) => otherwise).join("; ")}. Run: ${lines.join(" ")} Then make the pooler reconnect`
  );
}
