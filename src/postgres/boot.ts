import { AppError } from "../domain/errors.ts";
import type { Keyring } from "../domain/keyring.ts";
import { sameSecret } from "../domain/mac.ts";
import { StartError } from "../domain/start-error.ts";
import type { NewToken } from "../revocation/authority-store.ts";
import { committed } from "./committed.ts";
import { mint } from "./minting.ts";
import type { Postgres, Tx } from "./pool.ts";
import { CHECK_SESSION, sessionProblem } from "./session-settings.ts";

/**
 * Refuses a server that may lose acknowledged commits, and a keyring other than the one of this database's tokens.
 * Stores the check values of new peppers, if it may write.
 */
export async function checkDatabase(
  db: Postgres,
  keyring: Keyring,
  rules: { readonly fsyncOffAllowed: boolean; readonly mayWrite: boolean; readonly shared?: boolean },
): Promise<void> {
  const { primary, fsync, pooler } = await serverProblems(db, rules.shared ?? false);
  const problem =
    primary ?? (rules.fsyncOffAllowed ? undefined : fsync) ?? pooler ?? (await keyringProblem(db, keyring));
  if (problem !== undefined) throw new StartError("database_unfit", problem);
  if (rules.mayWrite) await storeKeyChecks(db, keyring);
}

/** The reasons why a server is unfit; a key is absent where nothing does. `shared`: its sessions are those of a pooler. */
export async function serverProblems(
  db: Pick<Postgres, "read">,
  shared: boolean,
): Promise<{ readonly primary?: string; readonly fsync?: string; readonly pooler?: string }> {
  const [settings] = await db.read<{ fsync: string; recovery: boolean }>(
    "select current_setting('fsync') as fsync, pg_is_in_recovery() as recovery",
  );
  const [session] = shared ? await db.read<{ login: string; wrong: string[] }>(CHECK_SESSION) : [];
  const pooler = session && sessionProblem(session);
  return {
    ...(settings?.recovery && { primary: "the database is a standby: database.url must lead to the primary" }),
    ...(settings?.fsync === "off" && {
      fsync: "the database runs with fsync=off: it can lose revocations that were acknowledged",
    }),
    ...(pooler !== undefined && { pooler }),
  };
}

/** The difference between a keyring and the one of this database's tokens, in words; undefined if they agree. */
export async function keyringProblem(db: Pick<Postgres, "read">, keyring: Keyring): Promise<string | undefined> {
  const stored = await db.read<{ kid: string; check_value: Buffer }>(
    "select kid, check_value from sallyport.key_checks",
  );
  for (const { kid, check_value } of stored) {
    const keys = keyring.get(kid);
    if (keys !== undefined && !sameSecret(keys.checkValue, check_value)) {
      return `the keyring's pepper ${kid} is not the one that this database's tokens were made with`;
    }
  }
  const missing = stored.map(({ kid }) => kid).filter((kid) => keyring.get(kid) === undefined);
  if (missing.length === 0) return undefined;
  return `the keyring lacks pepper ${missing.join(", ")}, which this database's tokens were made with`;
}

/** Stores the check values of peppers that this database does not know yet. */
export async function storeKeyChecks(db: Postgres, keyring: Keyring): Promise<void> {
  const stored = await db.read<{ kid: string }>("select kid from sallyport.key_checks");
  for (const keys of keyring.all()) {
    if (stored.some(({ kid }) => kid === keys.kid)) continue;
    await db.transaction(async (tx) => {
      // No start waits for a standby: if a failover loses a check value, it is stored again.
      await tx.query("set local synchronous_commit = local");
      await tx.query("insert into sallyport.key_checks (kid, check_value) values ($1, $2) on conflict do nothing", [
        keys.kid,
        keys.checkValue,
      ]);
    });
  }
}

/**
 * Creates the first administrator: one `adm` token for `user:admin` of tenant `default`. Returns false, and does
 * nothing, if one was created before, unless `again`. `keep` stores the string before the commit. Audited as
 * `bootstrap`.
 */
export async function makeFirstAdmin(
  db: Postgres,
  token: NewToken,
  ttlMs: number | undefined,
  again: boolean,
  keep: () => void,
): Promise<boolean> {
  const done = await committed(db, async (tx: Tx) => {
    // The row's lock serializes concurrent bootstraps; the mark outlives the token.
    const rows = await tx.query<{ made_at: number | null }>("select made_at from sallyport.first_admin for update");
    if (rows[0] === undefined) throw new AppError("INTERNAL", "the mark of the first administrator is missing");
    if (rows[0].made_at !== null && !again) return false;
    await mint(
      tx,
      token,
      ttlMs === undefined ? { never: true, maxTtl: 0 } : { ttl: ttlMs, maxTtl: ttlMs },
      { callerScopes: [], child: false, mustExist: false, byDatabaseOwner: true },
      { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 },
      { actor: "bootstrap", address: "", requestId: "" },
      undefined,
    );
    keep();
    await tx.query("update sallyport.first_admin set made_at = clock_timestamp()");
    return true;
  });
  return done.value;
}
