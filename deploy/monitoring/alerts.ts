/*
 * The one table of alerts. `npm run monitoring` writes sallyport.rules.yaml, its tests for promtool and docs/runbook.md
 * from it. A test checks that they agree with it, and that each metric and alarm exists in the program.
 */

export interface Alert {
  /** After `Sallyport`. */
  readonly name: string;
  readonly severity: "page" | "ticket";
  readonly expr: string;
  readonly for: string;
  /** One sentence: what is wrong. */
  readonly summary: string;
  /** What to do, for the person on call. */
  readonly action: string;
  /** Test series, one value each 30 s. Under them the alert must fire at 12 minutes, and not at 4 or 45 minutes. */
  readonly fires: Readonly<Record<string, string>>;
}

const QUIET = 10;
const FAULT = 30;
const AFTER = 60;
/** A counter that rises while the fault lasts. */
const counts = (start: number, step: number) =>
  `${start}x${QUIET} ${start + step}+${step}x${FAULT} ${start + step * (FAULT + 1)}x${AFTER}`;
/** A value that is `bad` while the fault lasts, and `good` before and after. */
const is = (good: number, bad: number) => `${good}x${QUIET} ${bad}x${FAULT} ${good}x${AFTER}`;

const alarm = (...names: readonly string[]) =>
  `increase(sallyport_alarms_total{what=~"${names.join("|")}"}[10m]) > 0`;
const alarmSeries = (name: string) => ({ [`sallyport_alarms_total{what="${name}"}`]: counts(0, 1) });

const UNDETERMINED = 'sum by (job, instance) (rate(sallyport_validations_total{verdict="UNDETERMINED"}[2m]))';

export const ALERTS: readonly Alert[] = [
  {
    name: "RevokedTokenAccepted",
    severity: "page",
    expr: `${alarm("revoked_token_accepted")} or increase(sallyport_canary_total{outcome="accepted"}[10m]) > 0`,
    for: "0s",
    summary: "The canary saw an instance accept a revoked token.",
    action:
      "Find the log line with the event `revoked_token_accepted`. Take the instance in its field `instance` (`self` is the instance that logged) out of service at once; the others are not affected. Keep its log. Report it as SECURITY.md says.",
    fires: alarmSeries("revoked_token_accepted"),
  },
  {
    name: "HistoryRegressed",
    severity: "page",
    expr: alarm("history_regressed", "history_regressed_new_server"),
    for: "0s",
    summary: "The database lost revocations: a restore, a failover that lost commits, or rows changed by hand.",
    action:
      "Find out what replaced the database's rows. Instances do again what they remember (docs/backup-and-failover.md). Repeat every other revocation since that backup or failover. Find them with `sallyport audit list --action token.revoke` on the old copy, in your ticket system and in the callers' logs. See docs/revocation.md, Failover and Restoring.",
    fires: alarmSeries("history_regressed_new_server"),
  },
  {
    name: "LostChanges",
    severity: "page",
    expr: alarm("lost_changes_replayed", "lost_changes_held"),
    for: "0s",
    summary: "The database had lost changes of authority. They were done again, as instances or the journal remember them.",
    action:
      "Read docs/backup-and-failover.md. Find out why the database lost commits: a failover to a standby that was behind, or an older copy. Run `sallyport reconcile`: it lists the changes that need a decision. Without a journal, repeat revocations that are older than ten minutes and later than the copy: no instance remembers them.",
    fires: alarmSeries("lost_changes_replayed"),
  },
  {
    name: "JournalMismatch",
    severity: "page",
    expr: alarm("journal_mismatch", "journal_unreachable"),
    for: "0s",
    summary: 'The journal cannot say what the database lacks. While sallyport_guard{state="ok"} is 0, no token is allowed.',
    action:
      "Read docs/backup-and-failover.md, The journal. `journal_unreachable`: bring its server back, or run `sallyport reconcile --without-journal`. `journal_mismatch`: the log line has `why`. Find out if `journal.url` leads to the right journal, and who changed it. Only if it is lost, run `sallyport reconcile --accept-gap`, or `--without-journal` where the metric sallyport_guard is not at regressed.",
    fires: alarmSeries("journal_mismatch"),
  },
  {
    name: "TwoPrimaries",
    severity: "page",
    expr: alarm("two_primaries"),
    for: "0s",
    summary: "An instance is connected to a primary that another one has replaced. It refuses everything.",
    action:
      "Power off the old primary, or close its port. Lead the instance to the new one. Changes that were made on the old one since are lost there: look at its audit log.",
    fires: alarmSeries("two_primaries"),
  },
  {
    name: "NotAdmitted",
    severity: "page",
    expr: alarm("not_admitted"),
    for: "0s",
    summary: "The database does not admit this program: its lease is too long, or its version too old.",
    action:
      "Compare `revocation.lease` with `max_bound_ms` in `sallyport.rev_state`, and the program's version with that of the other instances. Lower the lease, or start the version that the others run. See docs/revocation.md, Dials.",
    fires: alarmSeries("not_admitted"),
  },
  {
    name: "BreakGlassUsed",
    severity: "page",
    expr: alarm("break_glass_used"),
    for: "0s",
    summary: "Somebody called with the break-glass secret.",
    action:
      "The log line has the method, the address and the request id. The audit rows with that request id show the changes. If none of your people made the call, change the secret first, then look at the rows.",
    fires: alarmSeries("break_glass_used"),
  },
  {
    name: "NoLease",
    severity: "page",
    expr: "sallyport_lease_age_seconds > sallyport_lease_seconds",
    for: "15s",
    summary: "An instance has no lease: it answers UNDETERMINED, a refusal, for every token that it cannot read.",
    action:
      "Look at `/readyz` of the instance, then at the troubles `poll_failed` and `registration_failed` in its log. If the alert fires for all instances, PostgreSQL or the network to it is down. If it fires for one, check its network and its CPU.",
    fires: { sallyport_lease_age_seconds: is(0.2, 30), sallyport_lease_seconds: is(1.5, 1.5) },
  },
  {
    name: "Undetermined",
    severity: "page",
    // One caller with a tiny deadline can bring about a few.
    expr: `${UNDETERMINED} > 0.1 and ${UNDETERMINED} > 0.01 * sum by (job, instance) (rate(sallyport_validations_total[2m]))`,
    for: "2m",
    summary: "An instance cannot decide about more than one token in a hundred, and refuses those.",
    action:
      "If SallyportNoLease fires too, begin there. Otherwise look-ups in the database are slow or fail: see `sallyport_validation_seconds{tier=\"store\"}` and the trouble `token_read_failed`.",
    fires: { 'sallyport_validations_total{verdict="UNDETERMINED"}': counts(0, 30) },
  },
  {
    name: "Down",
    severity: "page",
    expr: 'up{job="sallyport"} == 0',
    for: "1m",
    summary: "An instance does not answer on its ops listener.",
    action:
      "Check that the process runs. If it ended, look at its exit code and its last log line. 78 means a wrong configuration, 69 an unreachable database, a port in use, or a database that does not admit the program (alarm `not_admitted` in its log). Proxies refuse every request while no instance answers.",
    fires: { 'up{job="sallyport"}': is(1, 0) },
  },
  {
    name: "RevocationsByTimeout",
    severity: "ticket",
    expr: 'sum by (job) (increase(sallyport_revocations_total{mode="LEASE_EXPIRED"}[10m])) > 3',
    for: "5m",
    summary: "An instance does not acknowledge, so revocations wait until its lease expires. They take 1.85 s, and the promise holds.",
    action:
      "Find the silent instance: `select id, epoch, applied_n, seen, reaped_at from sallyport.validators`. Restart it, or give it CPU.",
    fires: { 'sallyport_revocations_total{mode="LEASE_EXPIRED"}': counts(0, 2) },
  },
  {
    name: "RevocationSlow",
    severity: "ticket",
    expr: "histogram_quantile(0.99, sum by (job, le) (rate(sallyport_revocation_wait_seconds_bucket[5m]))) > 0.5",
    for: "5m",
    summary: "One revocation in a hundred takes longer than half a second to be in force everywhere.",
    action:
      "Compare `sallyport_lease_age_seconds` of the instances. The instance with the highest value polls late. Look at its CPU, and at the database's lock waits and commit times.",
    fires: {
      'sallyport_revocation_wait_seconds_bucket{le="0.2"}': counts(0, 1),
      'sallyport_revocation_wait_seconds_bucket{le="1"}': counts(0, 10),
      'sallyport_revocation_wait_seconds_bucket{le="+Inf"}': counts(0, 10),
    },
  },
  {
    name: "InstancesReaped",
    severity: "ticket",
    // Every instance may count the same silent one, so not their sum.
    expr: "max by (job) (increase(sallyport_validators_reaped_total[15m])) > 2",
    for: "0s",
    summary: "Instances die or hang again and again, and leave their row in the registry.",
    action: "Look for pods that are killed or evicted, and for instances whose event loop hangs.",
    fires: { sallyport_validators_reaped_total: counts(0, 1) },
  },
  {
    name: "Shedding",
    severity: "ticket",
    expr: "sum by (job, instance, class) (rate(sallyport_shed_total[5m])) > 1",
    for: "5m",
    summary: "An instance refuses calls because it is overloaded.",
    action: "The label `class` names the kind of calls. Add instances, or find the busiest caller by the field `actor` of the log lines.",
    fires: { 'sallyport_shed_total{class="admin"}': counts(0, 120) },
  },
  {
    name: "Troubles",
    severity: "ticket",
    expr: "sum by (job, instance, what) (rate(sallyport_troubles_total[5m])) > 0.1",
    for: "5m",
    summary: "Something that an instance depends on fails again and again.",
    action: "Look up the label `what` in docs/monitoring.md, Troubles. Its row has the action.",
    fires: { 'sallyport_troubles_total{what="redis_failed"}': counts(0, 30) },
  },
  {
    name: "CanaryNotReached",
    severity: "ticket",
    expr: 'increase(sallyport_canary_total{outcome="not_reached"}[10m]) > 0',
    for: "5m",
    summary: "The canary cannot ask an instance about its revoked token.",
    action: "Check the addresses in `canary.peers`, and the network policy between the instances.",
    fires: { 'sallyport_canary_total{outcome="not_reached"}': counts(0, 1) },
  },
  {
    name: "ReloadRejected",
    severity: "ticket",
    expr: alarm("reload_rejected"),
    for: "0s",
    summary: "A new configuration cannot be used; the old one stays.",
    action: "The log line lists the problems. `sallyport check-config` shows them before a reload.",
    fires: alarmSeries("reload_rejected"),
  },
  {
    name: "AuditPartitionsLow",
    severity: "ticket",
    // Partitions are made once a month; a dump that runs for an hour delays them, and needs nobody.
    expr: 'increase(sallyport_alarms_total{what=~"audit_partitions_low"}[10m]) > 5',
    for: "0s",
    summary: "The audit has partitions for fewer than three months ahead. Changes go on.",
    action:
      "A transaction that has read the whole audit, such as a dump, delays them: look for it in `pg_stat_activity` and end it. Then run `select sallyport.audit_months()` as the owner of the schema: it returns the months ahead, or the error. See docs/backup-and-failover.md, The audit in months.",
    fires: alarmSeries("audit_partitions_low"),
  },
  {
    name: "CacheSealInvalid",
    severity: "ticket",
    expr: alarm("cache_seal_invalid"),
    for: "0s",
    summary: "Entries in Redis carry a seal that no pepper of this instance made. Each is a miss, never an answer.",
    action: "Another program writes below `sallyport:v1:`, or instances have different keyrings: check the Redis ACL, then the keyrings.",
    fires: alarmSeries("cache_seal_invalid"),
  },
  {
    name: "InternalFault",
    severity: "ticket",
    expr: alarm("uncaught_exception", "unhandled_rejection", "follower_failed", "ack_wait_failed"),
    for: "0s",
    summary: "Sallyport has a bug. The instance continues, and still refuses every token that it cannot prove to be good.",
    action: "Report it with its log line. If it repeats, restart the instance.",
    fires: alarmSeries("unhandled_rejection"),
  },
  {
    name: "WorkersFailing",
    severity: "page",
    expr: alarm("workers_failing"),
    for: "0s",
    summary: "Worker processes of an instance ended again and again, so the instance ended.",
    action: "Read the log before the alarm. Workers that the kernel kills need more memory, a smaller `cache.l1.bytes` or fewer `workers`.",
    fires: alarmSeries("workers_failing"),
  },
  {
    name: "TokenReuse",
    severity: "ticket",
    expr: "sum by (job) (increase(sallyport_token_reuses_total[10m])) > 0",
    for: "0s",
    summary: "Somebody used a token string that a rotation had ended: a forgotten client, or a thief.",
    action: "`sallyport audit list --action token.reuse` shows token, address and time. If the address is not yours, revoke the token's family.",
    fires: { sallyport_token_reuses_total: counts(0, 1) },
  },
  {
    name: "CertificateExpiring",
    severity: "ticket",
    expr: "sallyport_certificate_expire_time_seconds - time() < 14 * 86400",
    for: "0s",
    summary: "A listener's certificate ends within 14 days.",
    action: "Replace the files; a reload is automatic. If they have been replaced, look for the trouble `certificate_reload_failed`.",
    fires: { 'sallyport_certificate_expire_time_seconds{listener="data"}': is(9_999_999, 86_400) },
  },
];
