import type pg from "pg";
import { AppError } from "../domain/errors.ts";
import { StartError } from "../domain/start-error.ts";
import { compareWithJournal, WHY } from "../revocation/journal-evidence.ts";
import type { LogRecord, Redone } from "../revocation/ports.ts";
import { withConnection } from "./connect-errors.ts";
import { PostgresJournal } from "./journal.ts";
import { PostgresRevocationLog } from "./revocation-log.ts";

export interface RestoreOptions {
  /** Direct, with the rights of the schema's owner. */
  readonly url: string;
  readonly journalUrl: string | undefined;
  /** Ends all tokens issued so far: nothing can say which of them were revoked since the backup. */
  readonly cutAll: boolean;
}

export interface Restored {
  readonly counts: Readonly<Record<Redone["state"], number>>;
  /** Why the journal does not show everything, so that no token is allowed. */
  readonly why: string | undefined;
}

const KEY = "database.url";
/** An instance shows itself every 10 s. */
const SILENT = "30 seconds";
const PAUSE_MS = 100;

/**
 * Makes a database usable in which a backup was put back, while no instance runs: begins another history, takes from the
 * journal what the backup lacks, redoes it, and proves the epoch. Rejects with NOT_DONE or
 * StartError if nothing was done.
 */
export async function restore({ url, journalUrl, cutAll }: RestoreOptions): Promise<Restored> {
  if (journalUrl === undefined && !cutAll) {
    throw new AppError(
      "NOT_DONE",
      "without journal.url nothing can say what the backup lacks: --cut-all ends all tokens",
    );
  }
  await withConnection(url, KEY, begin);
  const onTrouble = () => {};
  const log = new PostgresRevocationLog({ url, connections: 2, onTrouble });
  const store = journalUrl === undefined || cutAll ? undefined : new PostgresJournal({ url, journalUrl, onTrouble });
  try {
    const { epoch } = await log.readEpoch();
    let why: string | undefined;
    const counts = { applied: 0, held: 0, noted: 0 };
    if (store !== undefined) {
      const state = await store.state(epoch);
      // An empty journal says nothing, also if the backup is from before it was attached.
      const begun = await store.begin(state.database, epoch, false);
      why = begun === "begun" ? undefined : WHY[begun];
      // Between the pages, because the database takes only so many that are pending.
      const report = async (of: string, records: readonly LogRecord[]) => {
        await log.reportLost(of, records);
        await redo(log, epoch, counts);
      };
      why ??= await compareWithJournal({ store, report }, epoch, state);
      if (why === undefined) await store.compared(epoch);
      // Attaches it, too, so that no instance takes it for a new one.
      else await store.mismatch(epoch, why);
    }
    await redo(log, epoch, counts);
    if (cutAll) await withConnection(url, KEY, (client) => cut(client, journalUrl !== undefined));
    if (why === undefined) await log.prove(epoch, true);
    return { counts, why };
  } finally {
    await Promise.all([log.close(), store?.close()]);
  }
}

/** Redoes all that is pending, and counts what became of it. */
async function redo(log: PostgresRevocationLog, epoch: string, counts: Record<Redone["state"], number>): Promise<void> {
  for (;;) {
    const done = await log.redoLost(epoch);
    if (done === undefined) return;
    if (done === "busy") await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    else counts[done.state]++;
  }
}

/** Another history, an empty registry, and nothing is allowed before the end. */
async function begin(client: pg.Client): Promise<void> {
  await client.query("begin");
  await client.query("lock table sallyport.validators in exclusive mode");
  const { rows } = await client.query<{ alive: number }>(
    `select count(*)::int as alive from sallyport.validators where seen > clock_timestamp() - interval '${SILENT}'`,
  );
  const { alive } = rows[0]!;
  if (alive > 0) {
    await client.query("rollback");
    const text = `${KEY}: ${alive} instances were seen in the last 30 s: stop all of them, and wait`;
    throw new StartError("database_unfit", text);
  }
  await client.query("delete from sallyport.validators");
  await client.query(
    "update sallyport.rev_state set guard = 'regressed', mismatch = 'a backup was put back', proven = null, waived = null",
  );
  await client.query("select sallyport.draw_incarnation(incarnation) from sallyport.rev_state");
  await client.query("commit");
}

/** Ends all tokens, and lets the epoch begin without the journal; later ones, too, if the fleet has none any more. */
async function cut(client: pg.Client, journal: boolean): Promise<void> {
  await client.query("begin");
  await client.query(
    `insert into sallyport.audit (tenant, actor, action, target, metadata)
     select id, 'sql:' || session_user, 'tokens.revoke', 'tenant:' || id, '{"reason": "a backup was put back"}'
     from sallyport.tenants`,
  );
  await client.query("update sallyport.tenants set cut_time = clock_timestamp()");
  await client.query(
    "update sallyport.rev_state set guard = 'ok', mismatch = null, waived = sallyport.rev_epoch(), journaled_n = 0",
  );
  if (!journal) await client.query("update sallyport.rev_state set journal = false, compared = null");
  await client.query("commit");
}
