import { randomBytes, randomUUID } from "node:crypto";
import { PageTokens } from "./admin-api/page-token.ts";
import { build } from "./build.ts";
import { callersOf } from "./callers.ts";
import { feedLimits } from "./config/checks.ts";
import { profilesOf } from "./config/profiles.ts";
import type { Config } from "./config/schema.ts";
import { Policies } from "./data-plane/policy.ts";
import type { Clock, Timers } from "./domain/clock.ts";
import { NO_REQUIREMENT } from "./domain/decide.ts";
import type { ExchangeOutcome } from "./domain/exchange.ts";
import { Freshness } from "./domain/freshness.ts";
import { Keyring } from "./domain/keyring.ts";
import type { Secret } from "./domain/secret.ts";
import { SigningKeys } from "./domain/signing-keys.ts";
import { entryOf } from "./feed/entries.ts";
import { FeedNames } from "./feed/names.ts";
import { Feed } from "./feed/server.ts";
import { type Listeners, openListeners } from "./listeners.ts";
import { BulkRevoke } from "./management/bulk-revoke.ts";
import { ExchangeManager } from "./management/exchange-manager.ts";
import { FederationManager } from "./management/federation-manager.ts";
import { warnOfFirstAdmin } from "./management/first-admin-expiry.ts";
import { mintKid, mintSigner } from "./management/mint-kid.ts";
import { PrincipalManager } from "./management/principal-manager.ts";
import { Repeats } from "./management/repeats.ts";
import { ReuseDetection } from "./management/reuse-detection.ts";
import { RoleManager } from "./management/role-manager.ts";
import { TokenManager } from "./management/token-manager.ts";
import { PostgresAccessLog } from "./postgres/access-log.ts";
import { PostgresAuditLog } from "./postgres/audit-log.ts";
import { PostgresAuthorityStore } from "./postgres/authority-store.ts";
import { checkDatabase, storeKeyChecks } from "./postgres/boot.ts";
import { PostgresJournal } from "./postgres/journal.ts";
import { ListReads } from "./postgres/list-reads.ts";
import { READER_VERSION } from "./postgres/migrate.ts";
import { Postgres } from "./postgres/pool.ts";
import type { Followed } from "./postgres/proven-reads.ts";
import { PostgresRegistry } from "./postgres/registry.ts";
import { PostgresRevocationLog } from "./postgres/revocation-log.ts";
import { PostgresTrustRules } from "./postgres/rule-store.ts";
import { isShared } from "./postgres/session-settings.ts";
import { PostgresTokenReader } from "./postgres/token-reader.ts";
import { PostgresTokenStore } from "./postgres/token-store.ts";
import { PostgresUsageStore } from "./postgres/usage-store.ts";
import { openRedisCache } from "./redis/open.ts";
import { Canary } from "./revocation/canary.ts";
import { askPeer, peerTlsOf } from "./revocation/canary-peer.ts";
import { ChangeAuthority } from "./revocation/change-authority.ts";
import { Follower } from "./revocation/follower.ts";
import { Housekeeping } from "./revocation/housekeeping.ts";
import { Journal } from "./revocation/journal.ts";
import { Readiness } from "./revocation/readiness.ts";
import { ReapedValidators } from "./revocation/reaped-validators.ts";
import { DenialAudit } from "./rpc/denial-audit.ts";
import { jwksPage } from "./rpc/jwks.ts";
import type { Events, Trouble } from "./telemetry/events.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";
import type { Tracing } from "./telemetry/tracing.ts";
import { tracedAuthority, tracedCache, tracedEvents, tracedIssuer, tracedReader } from "./traced.ts";
import { AccessAudit } from "./validation/access-audit.ts";
import { LastUse } from "./validation/last-use.ts";
import { Lookup } from "./validation/lookup.ts";
import { type ValidateDeps, validateKnownWith, validateWith } from "./validation/validate.ts";
import type { Workers } from "./workers/primary.ts";
import { shareOf } from "./workers/share.ts";
import type { Primary } from "./workers/worker.ts";

/** A running Sallyport. */
export interface Sallyport {
  readonly listeners: Listeners;
  /** The reasons why it cannot answer now; empty if it can. */
  reasons(): readonly string[];
  /**
   * Reloads certificates, keyring and policies from a new configuration of the same shape. Returns false if a
   * certificate cannot be used; the old one stays then, and the problem is reported.
   */
  reload(config: Config): boolean;
  /** Reports NOT_SERVING, finishes the calls in progress, returns the lease and closes. Never rejects. */
  stop(graceMs: number, leastDelayMs?: number): Promise<void>;
}

/** The other processes of the program, if `workers` asks for some: in the primary its workers, in a worker the primary. */
export interface Processes {
  readonly workers?: Workers | undefined;
  readonly primary?: { readonly link: Primary; readonly rowKey: Uint8Array };
}

const USAGE_EVERY_MS = 10_000;
/** A registration of a worker that has ended may still commit for this long. */
const LATE_ROW_MS = 2_500;
const NO_WORKER = ["no worker process can answer"];
const UPKEEP_EVERY_MS = 3_600_000;

export const systemClock: Clock = {
  mono: () => performance.now(),
  wall: () => Date.now(),
};

export const systemTimers: Timers = {
  after(ms, run) {
    const timer = setTimeout(run, ms);
    return () => clearTimeout(timer);
  },
};

/**
 * The composition root: a straight line from configuration to open listeners. `config.database.url` and `config.keyring` are
 * set, and the database is migrated. Rejects with StartError.
 */
export async function createSallyport(
  config: Config,
  telemetry: Telemetry,
  tracing: Tracing | undefined,
  { workers, primary }: Processes = {},
): Promise<Sallyport> {
  const clock = systemClock;
  const timers = systemTimers;
  const full = config.mode === "full";
  const url = config.database.url!;
  const onTrouble = (name: Trouble, error: unknown) => telemetry.trouble(name, error);
  const signing = config.signing && new SigningKeys(config.signing);
  const keyring = new Keyring(config.keyring!.current, config.keyring!.keys, signing);
  const profiles = profilesOf(config);

  const shared = isShared(url, config.database.direct_url);
  const db = new Postgres({ url, shared, maxConnections: full ? 10 : 1, applicationName: "sallyport", onTrouble });
  try {
    await checkDatabase(db, keyring, { fsyncOffAllowed: config.database.allow_fsync_off, mayWrite: full, shared });
  } catch (error) {
    await db.close();
    throw error;
  }
  const lists = new ListReads({ url, shared, clock, onTrouble });
  const followed: Followed = {
    clock,
    epoch: () => freshness.epoch,
    sawEpoch: () => freshness.sawEpoch,
    applied: () => freshness.applied,
    accounted: () => freshness.accounted,
    wake: () => follower.wake(),
  };
  const store = new PostgresTokenStore(db, lists, followed);
  const audit = new PostgresAuditLog(db, lists);
  const reader = new PostgresTokenReader({ url, shared, connections: full ? 2 : 1, clock, onTrouble });
  reader.warmUp();
  const rowKey = primary?.rowKey ?? randomBytes(32);
  const log = new PostgresRevocationLog({
    url: config.database.direct_url ?? url,
    connections: full ? 2 : 1,
    about: { mode: config.mode, version: build().version },
    rowKey,
    onTrouble,
  });

  const redis =
    config.redis.url === undefined
      ? undefined
      : openRedisCache({ url: config.redis.url, ttlMs: config.cache.ttl, keyring, clock, events: telemetry });
  const freshness = new Freshness(config.revocation.lease);
  const lookup = new Lookup(
    {
      ...{ freshness, clock, timers, events: telemetry, wake: () => follower.wake() },
      reader: tracedReader(reader, tracing),
      cache: tracedCache(redis?.cache, tracing),
    },
    {
      l1Entries: Math.max(1, config.cache.l1.entries),
      l1Bytes: config.cache.l1.bytes,
      l1TtlMs: config.cache.ttl,
      l1DeadTtlMs: config.cache.negative_ttl,
      maxCacheReads: 256,
      maxReads: 64,
      maxQueuedReads: 512,
      readTimeoutMs: 400,
    },
  );
  const names = new FeedNames();
  const feed = new Feed(
    {
      ...{ freshness, names, follower: () => follower, clock, timers, later: setImmediate, instanceId: randomUUID() },
      mayLease: () => primary === undefined || primary.link.knowsFeed(),
    },
    { leaseMs: config.revocation.lease, ...feedLimits(config) },
  );
  const { url: journalUrl, mode: journalMode } = config.journal;
  const journal =
    full && journalUrl !== undefined
      ? new Journal({
          store: new PostgresJournal({ url: config.database.direct_url ?? url, journalUrl, onTrouble }),
          ...{ log, freshness, clock, timers, events: telemetry, wake: () => follower.wake() },
        })
      : undefined;
  const follower: Follower = new Follower(
    {
      ...{ log, freshness, lookup, reader, clock, timers, events: telemetry, random: Math.random },
      newId: () => {
        const id = randomUUID();
        primary?.link.row(id);
        return id;
      },
      feed,
      ...(journal !== undefined && { journal }),
    },
    {
      leaseMs: config.revocation.lease,
      pollMs: config.revocation.poll,
      readerVersion: READER_VERSION,
      redoes: full,
      kids: () => keyring.names(),
    },
  );
  redis?.wakeUps.onWakeUp(() => follower.wake());
  const reaped = new ReapedValidators();
  const issuer = new PostgresAuthorityStore(db);
  const changes = new ChangeAuthority({
    store: issuer,
    log,
    reaped,
    clock,
    timers,
    events: telemetry,
    wake: () => {
      follower.wake();
      redis?.wakeUps.publish();
      journal?.changed();
    },
    journal: journalMode === "required" ? journal : undefined,
  });
  const authority = tracedAuthority(changes, () => clock.mono(), tracing);
  const housekeeping = new Housekeeping(
    { log, freshness, follower, reaped, clock, timers, events: telemetry },
    { mode: config.mode, leaseMs: config.revocation.lease },
  );

  const now = () => freshness.time(clock.mono()).lower;
  const usage = new LastUse(
    { store: new PostgresUsageStore(db), clock, timers, events: telemetry, now },
    USAGE_EVERY_MS,
  );
  const accessLog = new PostgresAccessLog(db, lists);
  const access = new AccessAudit({
    ...{ store: accessLog, profiles, clock, timers, events: telemetry, now },
    random: Math.random,
    later: setImmediate,
  });
  const reuse = new ReuseDetection({ store, audit, authority, profiles, timers, events: telemetry });
  const reused = (events: Pick<Events, "tokenReused">) => (id: string) => {
    events.tokenReused(id);
    if (primary === undefined) reuse.seen(id);
    else primary.link.reused(id);
  };
  const validation = (listener: string): ValidateDeps => {
    const events = tracedEvents(telemetry.forListener(listener), tracing);
    return {
      keyring,
      lookup,
      freshness,
      clock,
      events: full || primary !== undefined ? { ...events, tokenReused: reused(events) } : events,
      used: (id, context, at) => usage.used(id, context, at),
      recorded: listener === "canary" ? undefined : access.recorder(listener),
    };
  };
  const registeredTypes = config.principals.registered;
  const repeats = new Repeats({ clock, timers, audit, events: telemetry });
  const tokens = new TokenManager({
    store,
    authority,
    issuer: tracedIssuer(issuer, tracing),
    repeats,
    keyring,
    profiles,
    registeredTypes,
    mintPerAddressPerHour: config.limits.mint_per_address_per_hour,
    mintPerPrincipalPerDay: config.limits.mint_per_principal_per_day,
    rotatePerPrincipalPerDay: config.limits.rotate_per_principal_per_day,
    ipv6PrefixLength: config.limits.ipv6_prefix_length,
    reused: reused(telemetry),
    mintKid: () => mintKid(keyring, store),
    mintSigner: (alg) => mintSigner(keyring, store, alg),
  });
  const { callers, dataCallers, sessions, consoleAuth, subjects } = callersOf(config, {
    ...{ db, store, audit, followed, keyring, clock, timers, telemetry },
    validation: validation("admin"),
  });
  const rules = new PostgresTrustRules(db, lists, followed);
  const exchanged = (outcome: ExchangeOutcome) => telemetry.exchanged(outcome);

  const peerTls = peerTlsOf(config);
  const validateForCanary = validateWith(validation("canary"));
  const askSelf = async (tokenString: string) =>
    (await validateForCanary(tokenString, NO_REQUIREMENT, NOWHERE, clock.mono() + 2_000)).verdict;
  if (primary !== undefined) primary.link.onValidate = askSelf;
  const canary = new Canary(
    {
      authority,
      issuer,
      keyring,
      clock,
      timers,
      events: telemetry,
      askers: [
        { name: "self", ask: (text) => askSelf(text.reveal()) },
        ...Array.from({ length: workers?.count ?? 0 }, (_, place) => ({
          name: `worker ${place + 1}`,
          ask: (text: Secret) => workers!.ask(place, text.reveal()),
        })),
        ...config.canary.peers.map((peer) => ({ name: peer, ask: (text: Secret) => askPeer(peer, text, peerTls) })),
      ],
    },
    config.canary.every ?? 0,
  );

  const policies = new Policies(config.policies);
  const readiness = new Readiness({ freshness, reader, clock });
  const reasons = () => {
    const own = readiness.reasons();
    return own.length === 0 && workers?.ready === 0 ? NO_WORKER : own;
  };
  const workerEnded = (rows: readonly string[], fed: boolean) => {
    const failed = (error: unknown) => telemetry.trouble("deregistration_failed", error);
    // Client caches may hold leases under a row: then it stays, and the housekeeping deletes it when they are over.
    if (fed) return void log.reap(rows).catch(failed);
    for (const row of rows) log.deregister(row).catch(failed);
  };

  const close = async () => {
    await housekeeping.stop();
    await follower.stop().catch((error) => telemetry.trouble("deregistration_failed", error));
    await journal?.stop();
    await usage.stop();
    await access.stop();
    await reuse.stop();
    await repeats.stop();
    redis?.close();
    await reader.close();
    await log.close();
    await lists.close();
    await db.close();
  };
  const open = () =>
    openListeners(config, {
      clock,
      telemetry,
      reasons,
      callers,
      dataCallers,
      consoleAuth,
      denials: new DenialAudit({ audit, clock, events: telemetry }),
      validate: validateWith(validation("data")),
      validateKnown: validateKnownWith(validation("data")),
      validateWithEntry: validateWith({
        ...validation("data"),
        entryOf: (found, verdict) => entryOf({ freshness, names, clock }, found, verdict),
      }),
      feed,
      policies,
      tracing,
      jwks: () => jwksPage(keyring),
      metrics: () => (workers === undefined ? telemetry.registry.metrics() : workers.metrics()),
      openWorkers:
        workers &&
        (() =>
          workers.open(
            { config: shareOf(config), rowKey },
            {
              ended(rows, fed) {
                workerEnded(rows, fed);
                setTimeout(() => workerEnded(rows, fed), LATE_ROW_MS).unref();
              },
              reused: (token) => reuse.seen(token),
            },
          )),
      binding: primary && (() => primary.link.binding()),
      managers: {
        tokens,
        bulk: new BulkRevoke({
          store,
          authority,
          keyring,
          registeredTypes,
          repeats,
          clock,
          timers,
        }),
        principals: new PrincipalManager({ store, authority }),
        roles: new RoleManager({ store, authority, profiles }),
        federation: new FederationManager({ rules, store, authority, profiles, registeredTypes, subjects }),
        exchanges: new ExchangeManager({ rules, tokens, subjects, profiles, registeredTypes, clock, exchanged }),
        audit,
        accessLog,
        info: {
          version: build().version,
          profiles,
          registry: new PostgresRegistry(lists),
          now,
          redis: () => (redis === undefined ? "OFF" : redis.ready ? "READY" : "AWAY"),
          lastWait: () => changes.last,
        },
        pages: new PageTokens(keyring),
      },
    });
  // If the start fails, everything opened so far is closed, so that the process can end.
  const listeners = await follower
    .start()
    .then(open)
    .catch(async (error) => {
      await close();
      throw error;
    });
  housekeeping.start();
  if (config.canary.every !== undefined) canary.start();
  usage.start();
  access.start();
  const gauges = setInterval(() => {
    telemetry.lease(Math.max(0, (clock.mono() - (freshness.leaseUntil - config.revocation.lease)) / 1000));
    telemetry.cacheEntries("l1", lookup.entries);
    if (journal !== undefined) telemetry.journalLag(journal.lag);
    telemetry.feedClients(feed.leased(clock.mono()));
    for (const { issuer, seconds } of [...(sessions?.ages() ?? []), ...subjects.ages()]) {
      telemetry.keysAge(issuer, seconds);
    }
    tellReady();
  }, 250).unref();
  const tellReady = () => {
    const ready = reasons().length === 0;
    listeners.serving(ready);
    primary?.link.ready(ready);
  };
  tellReady();
  const warn = () => void warnOfFirstAdmin(store, clock, telemetry);
  if (full) warn();
  const upkeep = () => {
    accessLog
      .upkeep(config.access_audit.retention)
      .catch((error) => telemetry.trouble("access_audit_upkeep_failed", error));
  };
  if (full) upkeep();
  const hourly = full ? setInterval(upkeep, UPKEEP_EVERY_MS).unref() : undefined;
  const daily = full ? setInterval(warn, 86_400_000).unref() : undefined;

  return {
    listeners,
    reasons,
    reload(fresh) {
      // The embedded database's own keys are in its folder, not in the configuration.
      const made = fresh.database.url === undefined && fresh.signing === undefined;
      const signing = made ? keyring.signing : fresh.signing && new SigningKeys(fresh.signing);
      const before = keyring.names().join();
      if (fresh.keyring === undefined) keyring.replaceSigning(signing);
      else keyring.replace(fresh.keyring.current, fresh.keyring.keys, signing);
      if (keyring.names().join() !== before) follower.renew();
      if (fresh.keyring !== undefined) {
        if (full) storeKeyChecks(db, keyring).catch((error) => telemetry.trouble("pepper_record_failed", error));
      }
      policies.replace(fresh.policies);
      workers?.reload(fresh);
      return listeners.reload();
    },
    async stop(graceMs, leastDelayMs = 0) {
      clearInterval(gauges);
      clearInterval(daily);
      clearInterval(hourly);
      canary.stop();
      await listeners.drain(graceMs, leastDelayMs);
      await close();
    },
  };
}

const NOWHERE = { clientAddress: "" };
