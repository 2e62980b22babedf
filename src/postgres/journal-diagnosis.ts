import { setTimeout as sleep } from "node:timers/promises";
import { type Finding, finding } from "../domain/finding.ts";
import { StartError } from "../domain/start-error.ts";
import {
  assertJournal,
  EMPTY_JOURNAL,
  NO_JOURNAL,
  OTHERS,
  type OwnState,
  ownerOf,
  ownState,
} from "./journal-schema.ts";

export interface JournalDiagnosisOptions {
  /** The direct URL of the own database. */
  readonly url: string | undefined;
  /** Undefined: none is set, or this mode has none. */
  readonly journalUrl: string | undefined;
  readonly mode: "full" | "validate";
}

/** Less than `sallyport doctor` waits, so that a database that does not answer is not reported as the journal. */
const OWN_MS = 3_000;
const HELP = "docs/backup-and-failover.md";

/** The check of the journal and the guard for `sallyport doctor`. Changes nothing. */
export async function diagnoseJournal({ url, journalUrl, mode }: JournalDiagnosisOptions): Promise<Finding[]> {
  const own = url === undefined ? undefined : knownState(url);
  const [state, kept] = await Promise.all([own, journalUrl === undefined ? undefined : look(journalUrl)]);
  const problems: Finding[] = state === undefined ? [] : guardOf(state);
  if (kept === undefined) {
    if (state?.journal && mode === "full") problems.push(finding("journal", "warn", NO_JOURNAL));
  } else {
    problems.push(...kept.problems, ...(kept.problems.length > 0 ? [] : fits(kept, state)));
  }
  if (problems.length > 0) return problems;
  const what = [kept && "journal.url answers", state && "the guard is open"].filter(Boolean).join(", ");
  return what === "" ? [] : [finding("journal", "ok", what)];
}

/** Undefined if the database cannot say it: the checks of the database have the reason. */
function knownState(url: string): Promise<OwnState | undefined> {
  return Promise.race([ownState(url).catch(() => undefined), sleep(OWN_MS, undefined, { ref: false })]);
}

interface Kept {
  readonly problems: readonly Finding[];
  /** False: it has no schema. */
  readonly made?: boolean;
  readonly owner?: string | undefined;
}

async function look(journalUrl: string): Promise<Kept> {
  try {
    const made = await assertJournal(journalUrl, true);
    return { problems: [], made, owner: made ? await ownerOf(journalUrl) : undefined };
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    return { problems: [finding("journal", "fail", error.problems.join("; "))] };
  }
}

function fits({ made, owner }: Kept, state: OwnState | undefined): Finding[] {
  if (owner !== undefined)
    return state === undefined || owner === state.database ? [] : [finding("journal", "fail", OTHERS)];
  if (state?.journal) {
    const text = "journal.url: it is empty, and this database has a journal: mend journal.url";
    return [finding("journal", "fail", `${text}; only if the journal is lost: ${HELP}`)];
  }
  return made ? [] : [finding("journal", "warn", EMPTY_JOURNAL)];
}

function guardOf({ guard, mismatch }: OwnState): Finding[] {
  if (guard === "ok") return [];
  const why = mismatch === null ? "somebody has closed it by hand" : `the journal does not fit (${mismatch})`;
  return [finding("journal", "fail", `the guard is closed, so no token is allowed: ${why}: ${HELP}`)];
}
