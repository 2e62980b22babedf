import { existsSync } from "node:fs";
import { issuerCaFiles } from "../config/issuers.ts";
import type { Config } from "../config/schema.ts";
import type { Clock } from "../domain/clock.ts";
import { CHECKS, type Finding, finding } from "../domain/finding.ts";
import { Keyring } from "../domain/keyring.ts";
import { Secret } from "../domain/secret.ts";
import { StartError } from "../domain/start-error.ts";
import { visible } from "../domain/visible.ts";
import { keyringOf } from "../embedded/data-folder.ts";
import { runningEmbedded } from "../embedded/embedded.ts";
import { NO_ANSWER, urlProblem } from "../postgres/connect-errors.ts";
import { diagnoseDatabase } from "../postgres/diagnosis.ts";
import { diagnoseJournal } from "../postgres/journal-diagnosis.ts";
import { diagnoseRedis } from "../redis/diagnosis.ts";
import { askPeer, peerTlsOf } from "../revocation/canary-peer.ts";
import { systemClock } from "../sallyport.ts";
import { caProblem } from "../sessions/fetch-document.ts";
import { checkLimits, checkMemory, checkNode, checkPorts, checkTls } from "./machine.ts";

/** The longest time for a check. All run at once. Milliseconds. */
const BOUND_MS = 3_500;

/** Prints the findings. Returns 0, 1 if a check failed, or 78 if the configuration cannot be read. */
export async function doctorCommand(load: () => Config, json: boolean): Promise<number> {
  let config: Config;
  try {
    config = load();
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    process.stdout.write(report(unreadable(error), json));
    return error.exitCode;
  }
  const findings = await examine(config, systemClock);
  process.stdout.write(report(findings, json));
  return findings.some(({ level }) => level === "fail") ? 1 : 0;
}

/** Looks at the configuration and at all that it leads to. Changes nothing; takes at most 5 s. Never rejects. */
export async function examine(config: Config, clock: Clock): Promise<Finding[]> {
  const late = "no answer in time";
  const found = await Promise.all([
    within("config", "", () => checkFiles(config)),
    within("node", "", () => [checkNode(process.version)]),
    within("limits", "", () => [checkLimits(config)]),
    within("memory", "", () => [checkMemory(config)]),
    within("database.reach", `database.url: ${NO_ANSWER}`, () => checkDatabase(config, clock)),
    within("journal", `journal.url: ${NO_ANSWER}`, () => checkJournal(config)),
    within("redis.reach", "redis.url: the host does not answer", () => diagnoseRedis(config.redis.url)),
    within("ports", late, () => checkPorts(config)),
    within("tls.chain", "", () => checkTls(config, clock.wall())),
    within("canary", late, () => checkCanary(config)),
  ]);
  return ordered(found.flat());
}

/** The findings for a configuration that cannot be read. */
function unreadable(error: StartError): Finding[] {
  return error.problems.map((problem) => finding("config", "fail", problem));
}

/** Lines for a person, or JSON for a program. */
function report(findings: readonly Finding[], json: boolean): string {
  if (json) return `${JSON.stringify({ findings })}\n`;
  const width = Math.max(...CHECKS.map((check) => check.length));
  return findings
    .map(({ level, check, text }) => `${level.padEnd(4)}  ${check.padEnd(width)}  ${visible(text)}\n`)
    .join("");
}

function ordered(findings: readonly Finding[]): Finding[] {
  return findings.toSorted((a, b) => CHECKS.indexOf(a.check) - CHECKS.indexOf(b.check));
}

/** The findings of `run`; a failure of it, or one that waits for too long, is a finding too. */
async function within(
  check: Finding["check"],
  late: string,
  run: () => readonly Finding[] | Promise<readonly Finding[]>,
): Promise<readonly Finding[]> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<readonly Finding[]>((resolve) => {
    timer = setTimeout(() => resolve([finding(check, "fail", late)]), BOUND_MS);
  });
  try {
    return await Promise.race([(async () => run())(), bound]);
  } catch (error) {
    // Only words of ours: a library's error can hold a URL.
    const words = error instanceof StartError ? error.problems.join("; ") : `cannot be checked (${nameOf(error)})`;
    return [finding(check, "fail", words)];
  } finally {
    clearTimeout(timer);
  }
}

function nameOf(error: unknown): string {
  const { reason, code, name } = error as { reason?: string; code?: string; name?: string };
  return reason ?? code ?? name ?? "error";
}

/** The configuration has been read, so what is left are the files that a start reads later. */
function checkFiles(config: Config): Finding[] {
  const cas = [...issuerCaFiles(config), ["canary.ca_file", config.canary.ca_file] as const];
  const bad = cas.flatMap(([key, file]) => {
    const problem = file === undefined ? undefined : caProblem(file);
    return problem === undefined ? [] : [finding("files", "fail", `${key}: ${file}: ${problem}`)];
  });
  const open = config.warnings.map((warning) => finding("files", "warn", warning));
  const files = [...bad, ...open];
  return [
    finding("config", "ok", config.files.length === 0 ? "read from the environment and defaults" : "read"),
    ...(files.length > 0 ? files : [finding("files", "ok", `${config.files.length} files`)]),
  ];
}

async function checkDatabase(config: Config, clock: Clock): Promise<readonly Finding[]> {
  const { database, callers, federation, mode } = config;
  const bad = (["url", "direct_url"] as const).flatMap((key) => {
    const problem = urlProblem(database[key]);
    return problem === undefined ? [] : [finding("database.reach", "fail", `database.${key}: ${problem}`)];
  });
  const found = { keyring: config.keyring, url: database.url };
  if (database.url === undefined) {
    found.url = await embeddedUrl(config);
    if (found.url !== undefined) found.keyring ??= keyringOf(config.embedded.data_dir);
    bad.push(
      finding(
        "database.reach",
        "warn",
        `no database.url: serve ${found.url === undefined ? "starts" : "runs"} an embedded PostgreSQL, which is for trying: set DATABASE_URL`,
      ),
    );
  }
  const made = keyringFrom(found.keyring);
  if (found.url === undefined || bad.some(({ level }) => level === "fail")) return [...bad, ...made.findings];
  const skews = [...callers.oidc, ...federation.issuers].map(({ clock_skew: skew }) => skew);
  const results = await diagnoseDatabase({
    url: found.url,
    directUrl: database.direct_url,
    mode,
    fsyncOffAllowed: database.allow_fsync_off,
    embedded: database.url === undefined,
    keyring: made.keyring,
    sessionSkewMs: skews.length > 0 ? Math.min(...skews) : undefined,
    clock,
  });
  // A keyring that was not compared with the database has a line all the same.
  return [...bad, ...results, ...(results.some(({ check }) => check === "keyring") ? [] : made.findings)];
}

/** The URL of the embedded database, if it runs. */
async function embeddedUrl({ embedded: { data_dir: dataDir } }: Config): Promise<string | undefined> {
  return existsSync(dataDir) ? runningEmbedded(dataDir) : undefined;
}

async function checkJournal(config: Config): Promise<Finding[]> {
  const { database, journal, mode } = config;
  const url = database.direct_url ?? database.url ?? (await embeddedUrl(config));
  return diagnoseJournal({ url, journalUrl: mode === "full" ? journal.url : undefined, mode });
}

function keyringFrom(set: Config["keyring"]): { keyring?: Keyring; findings: Finding[] } {
  if (set === undefined) return { findings: [finding("keyring", "ok", "the embedded database makes its own")] };
  try {
    const keyring = new Keyring(set.current, set.keys);
    return { keyring, findings: [finding("keyring", "ok", `${keyring.kids().length} peppers, not compared`)] };
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    return { findings: [finding("keyring", "fail", error.problems.join("; "))] };
  }
}

/** Asks every instance of the canary about a string that is no token. */
async function checkCanary(config: Config): Promise<Finding[]> {
  const { every, peers } = config.canary;
  if (config.mode !== "full") return [finding("canary", "ok", "runs in mode full only")];
  const off = "off: set canary.every on one instance, so that somebody notices a revoked token that works";
  const asked = await Promise.all(
    peers.map(async (peer): Promise<Finding[]> => {
      try {
        const verdict = await askPeer(peer, new Secret("doctor"), peerTlsOf(config));
        if (verdict === "INVALID_TOKEN") return [];
        return [finding("canary", "fail", `canary.peers: ${peer} answers ${verdict}: look at its log`)];
      } catch (error) {
        const { code, message = "" } = error as { code?: string; message?: string };
        const why = code ?? /^peer answered \d+$/.exec(message)?.[0] ?? "no answer";
        const what = `canary.peers: ${peer} cannot be asked (${why})`;
        return [finding("canary", "fail", `${what}: check its address, its certificate, and whom it trusts`)];
      }
    }),
  );
  const wrong = asked.flat();
  if (every === undefined) return [finding("canary", "warn", off), ...wrong];
  return wrong.length > 0 ? wrong : [finding("canary", "ok", `asks ${peers.length + 1} instances`)];
}
