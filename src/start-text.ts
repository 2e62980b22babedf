/** The facts that a start reports: the addresses of the listeners, and its duration. */
export interface Started {
  readonly version: string;
  readonly seconds: number;
  readonly data: string;
  readonly admin: string | undefined;
  readonly ops: string;
  readonly workers: number;
  /** The page of the console; undefined if it is off, or the admin listener is a unix socket. */
  readonly console: string | undefined;
  /** The data folder of the embedded PostgreSQL, if it stores the tokens, and the file of the first admin token. */
  readonly embedded: { readonly dataDir: string; readonly adminTokenFile: string } | undefined;
}

/** The defaults of the command line, which need not be said. */
const CLI_DEFAULTS = { data: "http://127.0.0.1:7400", admin: "http://127.0.0.1:7401", token: "data/admin-token" };

/** For a person at a terminal: the addresses, and commands to paste into another shell in the same folder. */
export function startText({
  version,
  seconds,
  data,
  admin,
  ops,
  workers,
  console: consoleUrl,
  embedded,
}: Started): string {
  const signIn =
    embedded === undefined ? "" : `   sign in with the token in ${embedded.adminTokenFile.replace(/^\.\//, "")}`;
  const lines = [
    "",
    `Sallyport ${version} is ready (${seconds.toFixed(1)} s)`,
    ...(consoleUrl === undefined ? [] : [`  Console  ${consoleUrl}${signIn}`]),
    `  ${admin === undefined ? "" : `Admin    ${admin}   `}Data ${data}${workers > 1 ? ` (${workers} workers)` : ""}   Ops ${ops}`,
  ];
  if (embedded !== undefined) {
    lines.push(`  Storage  embedded PostgreSQL in ${embedded.dataDir} (for trying, not for production)`);
  }
  if (embedded !== undefined && admin !== undefined) {
    const variables = [
      ...(admin === CLI_DEFAULTS.admin ? [] : [`SALLYPORT_ADDRESS=${admin}`]),
      ...(data === CLI_DEFAULTS.data ? [] : [`SALLYPORT_DATA_ADDRESS=${data}`]),
      ...(embedded.adminTokenFile.replace(/^\.\//, "") === CLI_DEFAULTS.token
        ? []
        : [`SALLYPORT_TOKEN="$(cat '${embedded.adminTokenFile}')"`]),
    ];
    const command = "npm run -s sallyport --";
    lines.push(
      "Try it in another shell:",
      ...(variables.length === 0 ? [] : [`  export ${variables.join(" ")}`]),
      `  ${command} tokens create --profile pat --principal user:ann --display-name first --quiet > first.token`,
      `  ${command} validate < first.token`,
      `  ${command} tokens revoke --token-string-file first.token`,
      `  ${command} validate < first.token`,
    );
  }
  return `${lines.join("\n")}\n\n`;
}
