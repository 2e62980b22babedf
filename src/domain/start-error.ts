/** Why the program cannot start, and the exit code of each: sysexits.h. 69 may pass by itself, 78 needs the operator. */
const EXIT_CODES = {
  config_invalid: 78,
  keyring_invalid: 78,
  signing_invalid: 78,
  redis_url_invalid: 78,
  tls_files_invalid: 78,
  database_unavailable: 69,
  /** The operator must change the URL, the server or the rights of its user. */
  database_unusable: 78,
  /** The database and this program or keyring do not belong together, or the database must not be used. */
  database_unfit: 78,
  schema_too_new: 78,
  schema_changed: 78,
  migration_failed: 70,
  embedded_failed: 69,
  /** Another instance runs on the same data folder. */
  embedded_in_use: 69,
  /** This machine cannot run the embedded PostgreSQL: platform, libraries, permissions. */
  embedded_unsupported: 78,
  workers_failing: 70,
  address_in_use: 69,
  address_invalid: 78,
  /** The system does not let this user listen there. */
  address_refused: 78,
} as const;

export type StartErrorKind = keyof typeof EXIT_CODES;

/**
 * The program cannot start, or cannot take a new configuration. The text is for the operator: every problem at once, each
 * naming its key, with no secret and no part of a URL.
 */
export class StartError extends Error {
  override readonly name = "StartError";
  readonly kind: StartErrorKind;
  readonly problems: readonly string[];

  constructor(kind: StartErrorKind, problems: string | readonly string[], cause?: unknown) {
    const list = typeof problems === "string" ? [problems] : problems;
    super(list.join("\n"), cause === undefined ? undefined : { cause });
    this.kind = kind;
    this.problems = list;
  }

  get exitCode(): (typeof EXIT_CODES)[StartErrorKind] {
    return EXIT_CODES[this.kind];
  }
}
