/** The checks of `sallyport doctor`, in the order of its lines. */
export const CHECKS = [
  "config",
  "files",
  "keyring",
  "node",
  "limits",
  "memory",
  "database.reach",
  "database.version",
  "database.primary",
  "database.fsync",
  "database.roles",
  "database.schema",
  "database.pooler",
  "database.clock",
  "database.sync",
  "journal",
  "redis.reach",
  "redis.acl",
  "ports",
  "tls.chain",
  "tls.expiry",
  "administrator",
  "validators",
  "canary",
] as const;

/** The result of one check: for the operator, with what to do, and without a secret. */
export interface Finding {
  readonly check: (typeof CHECKS)[number];
  readonly level: "ok" | "warn" | "fail";
  readonly text: string;
}

export const finding = (check: Finding["check"], level: Finding["level"], text: string): Finding => ({
  check,
  level,
  text,
});
