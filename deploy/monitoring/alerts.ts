/*
 * The one table of alerts. `npm run monitoring` makes of it sallyport.rules.yaml, its tests for promtool, and
 * docs/runbook.md; a test holds them to it, and each metric and alarm to the program.
 */

export interface Alert {
  /** After `Sallyport`. */
  readonly name: string;
  readonly severity: "page" | "ticket";
  readonly expr: string;
  readonly for: string;
  /** One sentence: what is wrong. */
  readonly summary: string;
  /** What to do, for somebody who was just woken. */
  readonly action: string;
  /** Series, a value each 30 s, under which it must fire 12 minutes in, and neither at 4 nor at 45 minutes. */
  readonly fires: Readonly<Record<string, string>>;
}

const QUIET = 10;
const FAULT = 30;
const AFTER = 60;
/** A counter that rises while the fault lasts. */
const counts = (start: number, step: number) =>
  `${start}x${QUIET} ${start + step}+${step}x${FAULT} ${start + step * (FAULT + 1)}x${AFTER}`;
/** A value that is another one while the fault lasts. */
const is = (good: number, bad: number) => `${good}x${QUIET} ${bad}x${FAULT} ${good}x${AFTER}`;

const alarm = (...names: readonly string[]) =>
  `increase(sallyport_alarms_total{what=~"${names.join("|")}"}[10m]) > 0`;
const alarmSeries = (name: string) => ({ [`sallyport_alarms_total{what="${name}"}`]: counts(0, 1) });

export const ALERTS: readonly Alert[] = [
  {
    name: "RevokedTokenAccepted",
    severity: "page",
    expr: `${alarm("revoked_token_accepted")} or increase(sallyport_canary_total{outcome="accepted"}[10m]) > 0`,
    for: "0s",
    summary: "The canary saw an instance accept a revoked token.",
    action:
      "Take the instance that the log line of `revoked_token_accepted` names out of service at once; the others are not concerned. Keep its log. Report it as SECURITY.md says.",
    fires: alarmSeries("revoked_token_accepted"),
  },
  {
    name: "HistoryRegressed",
    severity: "page",
    expr: alarm("history_regressed", "history_regressed_new_server"),
    for: "0s",
    summary: "The database lost revocations: a restore, a failover that lost commits, or rows changed by hand.",
    action:
      "Find out what replaced the database's rows. Repeat every revocation made since that backup or since the failover: `sallyport audit list --action token.revoke` on the old copy, the ticket system, the callers' logs. docs/revocation.md, Failover and Restoring.",
    fires: alarmSeries("history_regressed_new_server"),
  },
  {
    name: "NotAdmitted",
    severity: "page",
    expr: alarm("not_admitted"),
    for: "0s",
    summary: "The database does not admit this program: its lease is too long, or its version too old.",
    action:
      "The log line says which. Set `revocation.lease` to at most `max_bound_ms`, or start the version that the other instances run. docs/revocation.md, Dials.",
    fires: alarmSeries("not_admitted"),
  },
  {
    name: "BreakGlassUsed",
    severity: "page",
    expr: alarm("break_glass_used"),
    for: "0s",
    summary: "Somebody called with the break-glass secret.",
    action:
      "The log line has the method, the address and the request id; the audit rows of that request id say what was changed. If nobody of yours did it, change the secret first, then look at the rows.",
    fires: alarmSeries("break_glass_used"),
  },
  {
    name: "NoLease",
    severity: "page",
    expr: "sallyport_lease_age_seconds > sallyport_lease_seconds",
    for: "15s",
    summary: "An instance has no lease: it answers UNDETERMINED, a refusal, for every token that it cannot read.",
    action:
      "Look at `/readyz` of the instance, then at the troubles `poll_failed` and `registration_failed` in its log. If all instances fire, PostgreSQL or the way to it is down; if one does, its network or its CPU.",
    fires: { sallyport_lease_age_seconds: is(0.2, 30), sallyport_lease_seconds: is(1.5, 1.5) },
  },
  {
    name: "Undetermined",
    severity: "page",
    expr: 'sum by (job, instance) (rate(sallyport_validations_total{verdict="UNDETERMINED"}[2m])) > 0',
    for: "1m",
    summary: "An instance cannot decide about tokens and refuses them.",
    action:
      "Is SallyportNoLease firing too? Then begin there. Else look-ups in the database are slow or fail: see `sallyport_validation_seconds{tier=\"store\"}` and the trouble `token_read_failed`.",
    fires: { 'sallyport_validations_total{verdict="UNDETERMINED"}': counts(0, 30) },
  },
  {
    name: "Down",
    severity: "page",
    expr: 'up{job="sallyport"} == 0',
    for: "1m",
    summary: "An instance does not answer on its ops listener.",
    action:
      "Is the process there? Exit code 78 is a wrong configuration, 69 an unreachable database: the last log line says which. Proxies refuse every request while no instance answers.",
    fires: { 'up{job="sallyport"}': is(1, 0) },
  },
  {
    name: "RevocationsByTimeout",
    severity: "ticket",
    expr: 'sum by (job) (increase(sallyport_revocations_total{mode="LEASE_EXPIRED"}[10m])) > 3',
    for: "5m",
    summary: "Revocations wait until leases expire, because an instance does not acknowledge. They hold, but take 1.85 s.",
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
      "Compare `sallyport_lease_age_seconds` of the instances: the one with the highest polls late. Look at its CPU, and at the database's lock waits and commit times.",
    fires: {
      'sallyport_revocation_wait_seconds_bucket{le="0.2"}': counts(0, 1),
      'sallyport_revocation_wait_seconds_bucket{le="1"}': counts(0, 10),
      'sallyport_revocation_wait_seconds_bucket{le="+Inf"}': counts(0, 10),
    },
  },
  {
    name: "InstancesReaped",
    severity: "ticket",
    expr: 'max by (job) (sallyport_validators{state="reaped"}) > 0',
    for: "4m",
    summary: "Instances die or hang without leaving the registry.",
    action: "Look for pods that are killed or evicted, and for instances whose event loop hangs.",
    fires: { 'sallyport_validators{state="reaped"}': is(0, 1) },
  },
  {
    name: "Shedding",
    severity: "ticket",
    expr: "sum by (job, instance, class) (rate(sallyport_shed_total[5m])) > 1",
    for: "5m",
    summary: "An instance refuses calls because it is overloaded.",
    action: "The label `class` says which calls. Add instances, or find the caller that makes them: the field `actor` of its log lines.",
    fires: { 'sallyport_shed_total{class="admin"}': counts(0, 120) },
  },
  {
    name: "Troubles",
    severity: "ticket",
    expr: "sum by (job, instance, what) (rate(sallyport_troubles_total[5m])) > 0.1",
    for: "5m",
    summary: "Something that an instance depends on fails again and again.",
    action: "docs/monitoring.md, Troubles, has a row with an action for the label `what`.",
    fires: { 'sallyport_troubles_total{what="redis_failed"}': counts(0, 30) },
  },
  {
    name: "CanaryNotReached",
    severity: "ticket",
    expr: 'increase(sallyport_canary_total{outcome="not_reached"}[10m]) > 0',
    for: "5m",
    summary: "The canary cannot ask an instance about its revoked token.",
    action: "Check the addresses of `canary.peers`, and the network policy between them.",
    fires: { 'sallyport_canary_total{outcome="not_reached"}': counts(0, 1) },
  },
  {
    name: "ReloadRejected",
    severity: "ticket",
    expr: alarm("reload_rejected"),
    for: "0s",
    summary: "A new configuration cannot be used; the old one stays.",
    action: "The log line has the problems. `sallyport check-config` finds the same ones before a reload does.",
    fires: alarmSeries("reload_rejected"),
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
    summary: "A bug in Sallyport. The instance goes on, and what it cannot prove it refuses.",
    action: "Report it with its log line. If it repeats, restart the instance.",
    fires: alarmSeries("unhandled_rejection"),
  },
  {
    name: "TokenReuse",
    severity: "ticket",
    expr: "sum by (job) (increase(sallyport_token_reuses_total[10m])) > 0",
    for: "0s",
    summary: "A token string was used after its rotation had ended it: a forgotten client, or a thief.",
    action: "`sallyport audit list --action token.reuse` has token, address and time. If the address is not yours, revoke the token's family.",
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
