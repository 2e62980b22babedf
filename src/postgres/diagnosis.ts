import type { Clock } from "../domain/clock.ts";
import { type Finding, finding } from "../domain/finding.ts";
import type { Keyring } from "../domain/keyring.ts";
import { ADMIN_ENDS_SOON_MS } from "../domain/lifetime.ts";
import { StartError } from "../domain/start-error.ts";
import { keyringProblem, serverProblems } from "./boot.ts";
import { NO_ANSWER, withConnection } from "./connect-errors.ts";
import { firstAdminEnds } from "./first-admin.ts";
import { ListReads } from "./list-reads.ts";
import { compareSchema } from "./migrate.ts";
import { Postgres } from "./pool.ts";
import { assertReachable, assertRights, EMPTY_DATABASE } from "./preflight.ts";
import { PostgresRegistry } from "./registry.ts";
import { checkDirectSession } from "./session-check.ts";
import { isShared } from "./session-settings.ts";

/*
 * The checks of the database for `sallyport doctor`. They change nothing. Where a start makes the same check, the words
 * are those of the start.
 */

export interface DiagnosisOptions {
  readonly url: string;
  readonly directUrl: string | undefined;
  readonly mode: "full" | "validate";
  readonly fsyncOffAllowed: boolean;
  /** The embedded database: its user is its superuser. */
  readonly embedded: boolean;
  /** Undefined: it cannot be used, so it is not compared with the database. */
  readonly keyring: Keyring | undefined;
  /** The largest difference between the clocks that sessions allow; undefined: there are no sessions. */
  readonly sessionSkewMs: number | undefined;
  readonly clock: Clock;
}

const TESTED = { first: 15, last: 18 };
const CLOCK_MS = 2_000;
/** An instance reports several times a second. */
const SILENT_MS = 10_000;
const MOST_INSTANCES = 1_000;

/** A check that needs another one, which failed, has no finding. */
export async function diagnoseDatabase(options: DiagnosisOptions): Promise<Finding[]> {
  const { url, directUrl, clock } = options;
  const shared = isShared(url, directUrl);
  const unreachable = await way(options, shared);
  if (unreachable !== undefined) return [unreachable];
  const onTrouble = () => {};
  const db = new Postgres({ url, shared, maxConnections: 2, applicationName: "sallyport-doctor", onTrouble });
  const lists = new ListReads({ url, shared, clock, onTrouble });
  try {
    const [schema, server, time, sync] = await Promise.all([
      schemaOf(options, shared),
      serverOf(db, options, shared),
      clockOf(db, options),
      syncOf(db),
    ]);
    const found = [
      finding("database.reach", "ok", directUrl === undefined ? "database.url" : "database.url, database.direct_url"),
      ...server,
      ...schema.findings,
      time.finding,
      ...sync,
    ];
    if (schema.findings.some(({ level }) => level === "fail")) return found;
    if (!schema.empty) {
      const now = clock.wall() + time.aheadMs;
      found.push(
        ...(await Promise.all([
          rolesOf(options),
          ...(options.keyring === undefined ? [] : [keyringOf(db, options.keyring)]),
          administratorOf(db, options, now),
          validatorsOf(new PostgresRegistry(lists), now),
        ])),
      );
    }
    return found;
  } finally {
    await Promise.all([db.close(), lists.close()]);
  }
}

/** The finding of the first way that does not lead to the database; undefined if all do. */
async function way({ url, directUrl }: DiagnosisOptions, shared: boolean): Promise<Finding | undefined> {
  try {
    await checkDirectSession(directUrl ?? url);
  } catch (error) {
    return failed("database.pooler", error);
  }
  try {
    await Promise.all([
      assertReachable(url, "database.url", shared),
      ...(directUrl === undefined ? [] : [assertReachable(directUrl, "database.direct_url")]),
    ]);
    return undefined;
  } catch (error) {
    return failed("database.reach", error);
  }
}

interface SchemaFound {
  readonly findings: readonly Finding[];
  readonly empty?: boolean;
}

async function schemaOf({ url, directUrl, mode }: DiagnosisOptions, shared: boolean): Promise<SchemaFound> {
  const found = (level: Finding["level"], text: string) => ({ findings: [finding("database.schema", level, text)] });
  try {
    const schema = await withConnection(url, "database.url", compareSchema, shared);
    if (schema === undefined && mode === "full") return { ...found("warn", EMPTY_DATABASE), empty: true };
    // In mode validate this is the refusal of a start, in its words: an empty database, or an old one.
    if (mode === "validate") {
      await assertRights(url, mode, false, directUrl).catch((error: Error) => {
        if (schema === undefined || schema.missing.length > 0) throw error;
      });
    }
    const { missing, newer } = schema!;
    if (missing.length > 0) {
      const what = `${missing.length} migrations are missing, from ${missing[0]} on`;
      return found("warn", `${what}: run sallyport migrate; serve in mode full tries it, too`);
    }
    const ahead = `${newer.length} migrations are of a newer program, which this one works with: upgrade it soon`;
    return newer.length > 0 ? found("warn", ahead) : found("ok", "current");
  } catch (error) {
    const denied = error instanceof StartError && /\(42501\)$/.test(error.message);
    return { findings: [failed(denied ? "database.roles" : "database.schema", error)] };
  }
}

async function serverOf(db: Postgres, options: DiagnosisOptions, shared: boolean): Promise<Finding[]> {
  const [row] = await db.read<{ version: number; superuser: boolean }>(
    `select current_setting('server_version_num')::int / 10000 as version,
       current_setting('is_superuser') = 'on' as superuser`,
  );
  const { version } = row!;
  const { primary, fsync, pooler } = await serverProblems(db, shared);
  return [
    versionFinding(version),
    primary === undefined
      ? finding("database.primary", "ok", "it is the primary")
      : finding("database.primary", "fail", primary),
    fsync === undefined
      ? finding("database.fsync", "ok", "on")
      : finding("database.fsync", options.fsyncOffAllowed || options.embedded ? "warn" : "fail", fsync),
    pooler === undefined
      ? finding("database.pooler", "ok", shared ? "its sessions have the settings that they need" : "none")
      : finding("database.pooler", "fail", pooler),
    ...(row!.superuser && !options.embedded
      ? [finding("database.roles", "warn", "this user is a superuser: give serve a user of its own (docs/security.md)")]
      : []),
  ];
}

export function versionFinding(version: number): Finding {
  const tested = `PostgreSQL ${version}`;
  if (version >= TESTED.first && version <= TESTED.last) return finding("database.version", "ok", tested);
  const advice = `use one from ${TESTED.first} to ${TESTED.last}, the oldest and the newest that Sallyport is tested with`;
  return finding("database.version", version < TESTED.first ? "fail" : "warn", `${tested}: ${advice}`);
}

async function clockOf(
  db: Postgres,
  { clock, sessionSkewMs }: DiagnosisOptions,
): Promise<{ finding: Finding; aheadMs: number }> {
  const before = clock.wall();
  const [row] = await db.read<{ now: number }>("select (extract(epoch from clock_timestamp()) * 1000)::float8 as now");
  const after = clock.wall();
  const aheadMs = row!.now - (before + after) / 2;
  // The answer's own time is no difference.
  const least = Math.max(0, Math.abs(aheadMs) - (after - before) / 2);
  const seconds = (least / 1000).toFixed(1);
  if (least <= CLOCK_MS) return { finding: finding("database.clock", "ok", "agrees with this machine's"), aheadMs };
  const refused = sessionSkewMs !== undefined && least > sessionSkewMs;
  const what = `this machine's clock is ${seconds} s ${aheadMs < 0 ? "ahead of" : "behind"} the database's`;
  const why = refused ? "it refuses good sessions" : "tokens end by the database's clock, certificates by this one";
  return {
    finding: finding("database.clock", refused ? "fail" : "warn", `${what}, and ${why}: check NTP on both`),
    aheadMs,
  };
}

async function syncOf(db: Postgres): Promise<Finding[]> {
  const [row] = await db.read<{ commit: string; names: string; standbys: number; standby: boolean }>(
    `select current_setting('synchronous_commit') as commit, current_setting('synchronous_standby_names') as names,
       (select count(*)::int from pg_stat_replication) as standbys, pg_is_in_recovery() as standby`,
  );
  const { commit, names, standbys, standby } = row!;
  const found: Finding[] = [];
  if (!standby && names !== "" && standbys === 0)
    found.push(
      finding(
        "database.sync",
        "fail",
        "synchronous_standby_names is set and no standby is connected: no commit is confirmed. Connect one",
      ),
    );
  if (!standby && names === "" && standbys > 0)
    found.push(
      finding(
        "database.sync",
        "warn",
        `${standbys} standbys replicate asynchronously: a failover can lose revocations: set synchronous_standby_names (docs/backup-and-failover.md)`,
      ),
    );
  if (commit === "off" || commit === "local")
    found.push(
      finding(
        "database.sync",
        "warn",
        `synchronous_commit=${commit}: Sallyport commits its own changes with on, but a crash can lose changes by plain SQL: set it to on`,
      ),
    );
  return found.length > 0 ? found : [finding("database.sync", "ok", `synchronous_commit=${commit}`)];
}

async function rolesOf({ url, directUrl, mode }: DiagnosisOptions): Promise<Finding> {
  try {
    await assertRights(url, mode, true, directUrl);
    return finding("database.roles", "ok", `this user has the rights of mode ${mode}`);
  } catch (error) {
    return failed("database.roles", error);
  }
}

async function keyringOf(db: Postgres, keyring: Keyring): Promise<Finding> {
  const problem = await keyringProblem(db, keyring);
  if (problem !== undefined) return finding("keyring", "fail", problem);
  const { length } = keyring.kids();
  return finding("keyring", "ok", `${length} ${length === 1 ? "pepper" : "peppers"}, current ${keyring.current.kid}`);
}

async function administratorOf(db: Postgres, options: DiagnosisOptions, now: number): Promise<Finding> {
  const check = "administrator";
  if (options.mode !== "full") return finding(check, "ok", "not looked at in mode validate");
  const ends = await firstAdminEnds(db);
  if (ends === undefined || ends.expireTime - now > ADMIN_ENDS_SOON_MS)
    return finding(check, "ok", "no token of bootstrap ends soon");
  const at = new Date(ends.expireTime).toISOString();
  return finding(
    check,
    "warn",
    `the token ${ends.hint} of the first administrator ends on ${at}: make another in time, with it or by sallyport bootstrap --again`,
  );
}

async function validatorsOf(registry: PostgresRegistry, now: number): Promise<Finding> {
  const { rows } = await registry.instances(MOST_INSTANCES);
  const live = rows.filter(({ reaped }) => !reaped);
  if (live.length === 0)
    return finding("validators", "warn", "no instance runs on this database, so nothing validates: start serve");
  const silent = live.filter(({ seen }) => now - seen > SILENT_MS);
  if (silent.length > 0) {
    const seconds = Math.round((now - Math.max(...silent.map(({ seen }) => seen))) / 1000);
    const count = `${silent.length} of ${live.length} instances`;
    return finding(
      "validators",
      "warn",
      `${count} sent nothing for ${seconds} s, so changes wait for the end of a lease: see sallyport status, and restart or end them`,
    );
  }
  const versions = [...new Set(live.map(({ version }) => version))].sort().join(", ");
  return finding("validators", "ok", `${live.length} live, version ${versions}`);
}

/** The finding of a failure, in the words of the start. */
function failed(check: Finding["check"], error: unknown): Finding {
  return finding(check, "fail", error instanceof StartError ? error.problems.join("; ") : `database.url: ${NO_ANSWER}`);
}
