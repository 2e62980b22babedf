import { existsSync } from "node:fs";
import { redacted } from "./config/print.ts";
import type { Config } from "./config/schema.ts";
import { parseDuration } from "./domain/duration.ts";
import { AppError } from "./domain/errors.ts";
import { Keyring } from "./domain/keyring.ts";
import type { Secret } from "./domain/secret.ts";
import { SigningKeys, signingKid } from "./domain/signing-keys.ts";
import { adminTokenFile, EMBEDDED_ISSUER, keyringOf, signingOf, writeSecret } from "./embedded/data-folder.ts";
import { runningEmbedded, startEmbedded } from "./embedded/embedded.ts";
import { checkDatabase } from "./postgres/boot.ts";
import { bootstrap } from "./postgres/first-admin.ts";
import { assertJournal, EMPTY_JOURNAL, migrateJournal } from "./postgres/journal-schema.ts";
import { type KeyUse, keyStatus } from "./postgres/key-status.ts";
import { applyLost, dismissLost, type LostChange, listLost, waiveJournal } from "./postgres/lost-changes.ts";
import { migrate } from "./postgres/migrate.ts";
import { Postgres } from "./postgres/pool.ts";
import { assertBothReachable, assertRights, EMPTY_DATABASE } from "./postgres/preflight.ts";
import { restore } from "./postgres/restore.ts";
import { isShared } from "./postgres/session-settings.ts";
import { assertUsable } from "./usable.ts";

/* The commands besides the server. Each returns its exit code, prints its result to stdout and problems to stderr. */

const LONGEST_TTL = 365 * 86_400_000;

/** Migrates the database to the newest schema. */
export async function migrateCommand(config: Config): Promise<number> {
  return withDatabase(config, async (url) => {
    const applied = await migrate(config.database.direct_url ?? url);
    const text =
      applied.length === 0
        ? "nothing to do: the database is up to date"
        : applied.map((name) => `applied ${name}`).join("\n");
    process.stdout.write(`${text}\n`);
    if (config.journal.url !== undefined && (await migrateJournal(config.journal.url))) {
      process.stdout.write("made the journal\n");
    }
    return 0;
  });
}

/** Prints the first admin token, alone on stdout. Returns 1 if an administrator already exists. */
export async function bootstrapCommand(config: Config, ttl: string | undefined, again: boolean): Promise<number> {
  const ttlMs = ttl === undefined ? 30 * 86_400_000 : ttlOf(ttl);
  if (ttlMs === undefined) return say(2, "--ttl must be a duration of at most 365d such as 30d, 12h");
  const embedded = config.database.url === undefined;
  return withDatabase(config, async (url) => {
    await migrate(config.database.direct_url ?? url);
    const keyring = embedded ? keyringOf(config.embedded.data_dir) : config.keyring!;
    let made: Secret | undefined;
    const done = await bootstrap({
      url,
      shared: isShared(url, config.database.direct_url),
      keyring,
      ttlMs: embedded && ttl === undefined ? undefined : ttlMs,
      again,
      keep: (tokenString) => {
        made = tokenString;
        if (embedded) writeSecret(adminTokenFile(config.embedded.data_dir), `${tokenString.reveal()}\n`);
      },
    });
    if (!done || made === undefined) {
      return say(1, "an administrator already exists; --again mints another token for it");
    }
    process.stdout.write(`${made.reveal()}\n`);
    return 0;
  });
}

/**
 * Lists the changes of authority that the database had lost and that wait for a decision; or decides about one. Returns
 * 1 while there are some.
 */
export async function reconcileCommand(
  config: Config,
  what: {
    readonly all: boolean;
    readonly apply?: string;
    readonly dismiss?: string;
    readonly reason?: string;
    /** Lets tokens be allowed although the journal has a gap, or cannot be reached. */
    readonly waive?: "gap" | "journal";
  },
): Promise<number> {
  const decided = what.apply ?? what.dismiss;
  if (what.apply !== undefined && what.dismiss !== undefined) return say(2, "--apply or --dismiss, not both");
  if (decided !== undefined && !/^[1-9][0-9]{0,14}$/.test(decided)) return say(2, "the id is a number of the list");
  if ((what.dismiss === undefined) !== (what.reason === undefined)) return say(2, "--dismiss needs --reason");
  return withDatabase(config, async (url) => {
    const shared = isShared(url, config.database.direct_url);
    const onTrouble = () => {};
    const db = new Postgres({ url, shared, maxConnections: 1, applicationName: "sallyport-reconcile", onTrouble });
    try {
      if (what.apply !== undefined) {
        await applyLost(db, Number(decided));
        process.stdout.write(
          `done; a disabled token stays disabled: "sallyport tokens update ID --enable" enables it\n`,
        );
      }
      if (what.waive !== undefined) {
        const detach = what.waive === "journal" && config.journal.url === undefined;
        await waiveJournal(db, what.waive === "gap", detach);
        process.stdout.write(
          `${detach ? "done: no journal is needed any more" : "done, until the database restarts"}\n`,
        );
      }
      if (what.dismiss !== undefined) await dismissLost(db, Number(decided), what.reason!);
      const lost = await listLost(db, what.all);
      for (const change of lost) process.stdout.write(`${lineOf(change)}\n`);
      const open = lost.filter(({ state }) => state === "held" || state === "pending").length;
      return open === 0 ? 0 : say(1, `${open} lost changes wait: decide with --apply ID or --dismiss ID --reason TEXT`);
    } catch (error) {
      if (error instanceof AppError && error.reason === "NOT_DONE") return say(1, error.message);
      throw error;
    } finally {
      await db.close();
    }
  });
}

/** Makes a database usable in which a backup was put back. Returns 1 if no token is allowed yet. */
export async function restoreCommand(config: Config, cutAll: boolean): Promise<number> {
  return withDatabase(config, async (url) => {
    const direct = config.database.direct_url ?? url;
    await migrate(direct);
    try {
      const { counts, why } = await restore({ url: direct, journalUrl: config.journal.url, cutAll });
      const { applied, held, noted } = counts;
      process.stdout.write(`re-applied ${applied}, held ${held}, noted ${noted}\n`);
      if (cutAll)
        process.stdout.write(`all tokens have ended: "sallyport bootstrap --again" makes an administrator's\n`);
      if (why !== undefined) {
        return say(
          1,
          `the journal does not show everything (${why}): mend it and repeat, or sallyport reconcile --accept-gap`,
        );
      }
      return held === 0 ? 0 : say(1, `${held} lost changes wait: sallyport reconcile`);
    } catch (error) {
      if (error instanceof AppError && error.reason === "NOT_DONE") return say(1, error.message);
      throw error;
    }
  });
}

/**
 * Shows each pepper and signing key: if it is current, how many instances know it, its live tokens, and the end of the
 * last one. Also those that tokens rest on and this configuration lacks.
 */
export async function keysCommand(config: Config): Promise<number> {
  return withDatabase(config, async (url) => {
    const { data_dir } = config.embedded;
    const embedded = config.database.url === undefined;
    const { current, keys } = config.keyring ?? keyringOf(data_dir);
    const settings = config.signing ?? (embedded ? signingOf(data_dir, EMBEDDED_ISSUER) : undefined);
    const signing = settings && new SigningKeys(settings);
    const shared = isShared(url, config.database.direct_url);
    const db = new Postgres({ url, shared, maxConnections: 1, applicationName: "sallyport-keys", onTrouble: () => {} });
    try {
      const status = await keyStatus(db);
      const line = (
        kind: string,
        id: string,
        state: string,
        name: string | undefined,
        use: KeyUse = { live: 0, lastEnd: undefined },
      ) => {
        const knowing = status.instances.filter((names) => name !== undefined && names.includes(name)).length;
        const last = use.live === 0 ? "-" : use.lastEnd === undefined ? "never" : new Date(use.lastEnd).toISOString();
        const words = [
          kind,
          id,
          state,
          `instances=${knowing}/${status.instances.length}`,
          `live=${use.live}`,
          `last=${last}`,
        ];
        process.stdout.write(`${words.join("\t")}\n`);
      };
      for (const kid of new Set([...Object.keys(keys), ...status.peppers.keys()])) {
        const state = kid === current ? "current" : Object.hasOwn(keys, kid) ? "kept" : "missing";
        line("pepper", kid, state, kid, status.peppers.get(kid));
      }
      const ids = [...(signing?.keys.keys() ?? []), ...status.signing.keys()].filter((id) => id !== "");
      for (const id of new Set(ids)) {
        const key = signing?.keys.get(id);
        const kept = key?.private === undefined ? "verifies" : "kept";
        const state = key === undefined ? "missing" : signing?.current(key.alg) === key ? "current" : kept;
        line(key?.alg ?? "signing", id, state, key && signingKid(key), status.signing.get(id));
      }
      return 0;
    } finally {
      await db.close();
    }
  });
}

function lineOf({ id, state, kind, position, time, target, late, note, change }: LostChange): string {
  const facts = change === null ? "" : JSON.stringify(change);
  const words = [
    id,
    late ? `${state} (late)` : state,
    kind,
    position,
    new Date(time).toISOString(),
    target,
    note,
    facts,
  ];
  return words.join("\t");
}

/**
 * Prints the effective configuration, without its secrets. With `connect` it also tries the database: credentials,
 * rights, keyring. It changes nothing there.
 */
export async function checkConfigCommand(config: Config, connect: boolean): Promise<number> {
  assertUsable(config);
  for (const warning of config.warnings) say(0, `warning: ${warning}`);
  if (connect) await checkConnection(config);
  process.stdout.write(`${JSON.stringify(redacted(config), null, 2)}\n`);
  return 0;
}

async function checkConnection({ database, journal, keyring, mode }: Config): Promise<void> {
  const { url, direct_url: directUrl } = database;
  if (url === undefined)
    return void say(
      0,
      "no database.url is set, so there is no database to try; the embedded database starts with serve",
    );
  await assertBothReachable(url, directUrl);
  const shared = isShared(url, directUrl);
  const full = mode === "full";
  if (full && journal.url !== undefined && !(await assertJournal(journal.url, true))) {
    say(0, EMPTY_JOURNAL);
  }
  if (!(await assertRights(url, mode, full, directUrl))) {
    return void say(0, EMPTY_DATABASE);
  }
  const db = new Postgres({ url, shared, maxConnections: 1, applicationName: "sallyport-check", onTrouble: () => {} });
  try {
    const peppers = new Keyring(keyring!.current, keyring!.keys);
    await checkDatabase(db, peppers, { fsyncOffAllowed: database.allow_fsync_off, mayWrite: false, shared });
  } finally {
    await db.close();
  }
}

/**
 * Runs `work` on the configured database, or on the embedded one: that of the running instance, or one started for this
 * work.
 */
async function withDatabase(config: Config, work: (url: string) => Promise<number>): Promise<number> {
  assertUsable(config);
  const { url, direct_url: directUrl } = config.database;
  if (url !== undefined) {
    await assertBothReachable(url, directUrl);
    return work(url);
  }
  const { data_dir } = config.embedded;
  const running = existsSync(data_dir) ? await runningEmbedded(data_dir) : undefined;
  if (running !== undefined) return work(running);
  const embedded = await startEmbedded({ dataDir: data_dir, log: (line) => say(0, line) });
  try {
    return await work(embedded.url);
  } finally {
    await embedded.stop();
  }
}

function ttlOf(text: string): number | undefined {
  const ms = parseDuration(text) ?? 0;
  return ms > 0 && ms <= LONGEST_TTL ? ms : undefined;
}

function say(code: number, line: string): number {
  process.stderr.write(`sallyport: ${line}\n`);
  return code;
}
