import type { RefusalReason, Verdict } from "../domain/decide.ts";

export type Tier = "l1" | "l2" | "store" | "none";

/*
 * Every event by its identifier, with the text of its log line. docs/monitoring.md explains each and gives an action.
 */

/** Events that a person must look at. */
export const ALARMS = {
  ack_wait_failed: "waiting for acknowledgements failed; changes wait by time until it works again",
  audit_partitions_low: "the audit has partitions for fewer than three months ahead, and no more could be made",
  break_glass_used: "a caller used the break-glass secret",
  cache_seal_invalid: "entries in Redis have a seal that no pepper of this instance made",
  follower_failed: "following the revocation log failed; this instance has no lease until it works again",
  history_regressed: "the database's history went backwards; everything is refused until it has a new incarnation",
  history_regressed_new_server: "a new server lacks changes that this instance has seen: a failover lost commits",
  journal_mismatch:
    'the journal is not that of this database, or lacks changes; while sallyport_guard{state="regressed"} is 1, no token is allowed',
  journal_unreachable:
    "the journal cannot be reached, and no token is allowed before it was compared with the database",
  lost_changes_held: "the database lacks changes of authority that cannot be redone exactly; somebody must decide",
  lost_changes_replayed: "the database had lost changes of authority; they were redone",
  not_admitted: "the database refuses this program: its lease is too long, or its version too old",
  reload_rejected: "the new configuration cannot be used; the old one stays",
  revoked_token_accepted: "an instance accepted a revoked token",
  two_primaries:
    "another primary has taken over, and this instance is still connected to the old one; it refuses everything",
  uncaught_exception: "an exception reached the top of the program, which continues",
  unhandled_rejection: "nothing handled a rejected promise; the program continues",
  workers_failing: "worker processes ended again and again; the program ends",
} as const;

/** Failures of dependencies of this instance. */
export const TROUBLES = {
  accept_failed: "a listener could not accept a connection",
  access_audit_failed: "uses of tokens could not be recorded",
  access_audit_upkeep_failed: "the days of the record of uses could not be made or dropped",
  ack_failed: "the position could not be acknowledged",
  ack_wait_failed: "waiting for acknowledgements failed",
  background_wait_failed: "a change with no_wait could not be confirmed in the background",
  canary_failed: "the canary could not issue or revoke its token",
  certificate_reload_failed: "a certificate could not be read again; the old one stays",
  connection_failed: "a connection ended because of a bug in this program",
  database_connection_lost: "a connection to the database was lost",
  denial_audit_failed: "the audit row of a refused call could not be written",
  deregistration_failed: "this instance could not delete its row in the registry; others reap it",
  epoch_read_failed: "the epoch could not be read from the database",
  first_admin_check_failed: "the expiry of the first admin token could not be read",
  follower_failed: "following the revocation log failed",
  handler_failed: "a handler failed; its call was answered as internal error",
  housekeeping_failed: "housekeeping of the registry and the log failed",
  incarnation_draw_failed: "no new incarnation could be drawn",
  issuer_unreachable: "the keys of an issuer of sessions could not be fetched",
  journal_failed: "the journal could not be read or written",
  last_use_write_failed: "last uses of tokens could not be stored",
  pepper_record_failed: "the check values of new peppers could not be stored",
  poll_failed: "a poll of the revocation log failed",
  proof_failed: "what the epoch needs before it allows tokens could not be done",
  redis_failed: "a command to Redis failed",
  redis_unreachable: "Redis cannot be reached",
  registration_failed: "this instance could not register",
  registry_read_failed: "the registry of validators could not be read",
  repeat_audit_failed: "the row that counts repeated calls could not be written",
  reuse_audit_failed: "the reuse of a rotated token could not be audited",
  sign_in_failed: "a sign-in to the console, or the renewal of its session, failed at the issuer",
  token_read_failed: "a token could not be read because of a bug in this program",
  uncaught_exception: "an exception reached the top of the program",
  unhandled_rejection: "nothing handled a rejected promise",
  wake_ups_unavailable: "Redis delivers no wake-ups; this instance learns of changes by polls",
  worker_exited: "a worker process ended; another takes its place",
} as const;

/** Events that are worth one log line. */
export const NOTES = {
  awaiting_incarnation: "everything is still refused: the database has no new incarnation yet",
  embedded_database: "a message of the embedded PostgreSQL",
  first_admin_missing: "the admin token file is gone: sallyport bootstrap --again makes another",
  first_admin_written: "the first admin token is in the data folder",
  lost_changes_found: "this instance remembers changes of authority that the database may have lost",
  migrated: "a migration was applied",
  new_epoch: "another server, or a restart of the same one, began a new epoch",
  ready: "the listeners accept connections",
  reloaded: "certificates, keyring, signing keys and policies were read again",
  starting: "the program starts",
  stopped: "the program has stopped",
  stopping: "the program stops",
} as const;

/** Notes for an operator who should act within days. */
export const WARNINGS = {
  configuration_warning: "the configuration can be used, but should be mended",
  first_admin_expiring:
    "the first admin token ends soon: mint one for another principal, or sallyport bootstrap --again makes another",
  systemd_notify_failed: "systemd could not be notified",
} as const;

/** Lines about single calls, connections and tokens. */
export const LINES = {
  call: "call",
  tls_handshake_failed: "a TLS handshake failed",
  token_refused: "a token was refused",
  token_reused: "a token string was used after its rotation had ended it",
} as const;

export type Alarm = keyof typeof ALARMS;
export type Trouble = keyof typeof TROUBLES;
export type Note = keyof typeof NOTES | keyof typeof WARNINGS;
/** Every value of the field `event` of a log line. */
export type EventName = Alarm | Trouble | Note | keyof typeof LINES;

/** Further facts in an event's line: names, codes and counts, never a secret. */
export type Facts = Readonly<Record<string, string | number>>;

/**
 * `ok`: the epoch allows tokens. `proving`: it may lack changes that were not redone yet. `regressed`: an operator has
 * closed it.
 */
export const GUARD_STATES = ["ok", "proving", "regressed"] as const;
export type GuardState = (typeof GUARD_STATES)[number];

/** One method per kind of event, each with its counter and its log line. No argument is ever a secret. */
export interface Events {
  validated(verdict: Verdict, reason: RefusalReason | undefined, tier: Tier, seconds: number, tokenId?: string): void;
  /** A string was used after its rotation ended it. */
  tokenReused(tokenId: string): void;
  authorityChanged(mode: "ACKED" | "LEASE_EXPIRED" | "ACCEPTED", waitedSeconds: number): void;
  audited(action: string): void;
  lease(ageSeconds: number): void;
  validators(counts: Readonly<Record<"live" | "reaped", number>>): void;
  /** Instances fell silent and were marked, so that changes wait for them by time only, and then not at all. */
  reaped(instances: number): void;
  /** The state of the epoch by the last poll. */
  guard(state: GuardState): void;
  /** Changes that an epoch lacked, by what became of them. `late`: so many of them after the epoch was proven. */
  lostChanges(counts: Readonly<Record<"applied" | "held" | "noted" | "late", number>>): void;
  /** How long the oldest change that is not in the journal has been waiting. */
  journalLag(seconds: number): void;
  cacheEntries(tier: "l1" | "l2", entries: number): void;
  /** The number of client caches that may hold a lease from this instance. */
  feedClients(clients: number): void;
  /** Client caches held an acknowledgement back for this long. */
  feedHeld(seconds: number): void;
  /** So many uses are missing from the record. `full`: the memory for them was full. `database`: it took them not. */
  accessDropped(reason: "full" | "database", uses: number): void;
  shed(klass: string): void;
  /** One run of the canary: the instances that refused a revoked token, that accepted it, and that did not answer. */
  canary(flight: { readonly refused: number; readonly accepted: number; readonly notReached: number }): void;
  /** A dependency of this instance failed. Repeated lines are thinned out. `error` is logged by class and code only. */
  trouble(name: Trouble, error: unknown, facts?: Facts): void;
  /** An event that a person must look at. */
  alarm(name: Alarm, facts: Facts): void;
  /** An event that is worth one log line. */
  note(name: Note, facts?: Facts): void;
}

/** The names of the gRPC status codes, as the specification spells them. */
export type StatusName =
  | "OK"
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED";

/** A line about one call: names, codes and times; nothing of request or response. */
export interface CallLine {
  readonly requestId: string;
  readonly method: string;
  readonly code: StatusName;
  readonly reason?: string;
  readonly actor?: string;
  /** The address of a caller without a valid credential. */
  readonly address?: string;
  readonly seconds: number;
  readonly level: "debug" | "info" | "warn" | "error";
  /** The cause of an unexpected error. */
  readonly cause?: unknown;
}
