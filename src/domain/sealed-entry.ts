import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, type KeyObject, randomBytes } from "node:crypto";
import type { Keyring, Keys } from "./keyring.ts";
import type { Liveness, TokenSnapshot } from "./token-snapshot.ts";

/*
 * A token snapshot in the L2 cache. That cache is not trusted. It cannot read an entry, change one, or put one under
 * another name, position or epoch. It can bring back an old entry of the same name; the version guards against that.
 *
 *   value = n (16 decimal digits) ‖ schema (1) ‖ kid (1) ‖ day (4) ‖ nonce (12) ‖ AES-256-GCM(facts) ‖ tag (16)
 *   associated data = all before the nonce ‖ name (32) ‖ digest (32) ‖ epoch
 *
 * n comes first, so that a cache can compare positions without a key. The nonce is random. Each day and pepper has its
 * own key, which keeps the number of seals under one key far below 2^32 (NIST SP 800-38D, section 8.3).
 */
const SCHEMA = 4;
const N_DIGITS = 16;
const HEADER = N_DIGITS + 6;
const NONCE = 12;
const TAG = 16;
const DAY_MS = 86_400_000;

/**
 * The name of a token's entry in one epoch: 32 bytes that reveal nothing without the pepper. Programs of another schema
 * look under other names, so that their entries do not count as broken seals.
 */
export function entryName(keys: Keys, epoch: string, digest: string): Buffer {
  return keys.cacheKey.fields(`${SCHEMA} ${epoch}`, Buffer.from(digest, "latin1"));
}

/** Seals a snapshot for the entry of this name. `time` (milliseconds since 1970, any clock) picks the day's key. */
export function seal(snapshot: TokenSnapshot, name: Uint8Array, keys: Keys, time: number): Buffer {
  const day = Math.floor(time / DAY_MS);
  const header = Buffer.alloc(HEADER);
  header.write(String(snapshot.version.position).padStart(N_DIGITS, "0"), "latin1");
  header[N_DIGITS] = SCHEMA;
  header.write(keys.kid, N_DIGITS + 1, "latin1");
  header.writeUInt32BE(day, N_DIGITS + 2);
  const nonce = randomBytes(NONCE);
  const cipher = createCipheriv("aes-256-gcm", dayKey(keys, day), nonce, { authTagLength: TAG });
  cipher.setAAD(associated(header, name, snapshot.digest, snapshot.version.epoch));
  const sealed = cipher.update(JSON.stringify(factsOf(snapshot)), "utf8");
  return Buffer.concat([header, nonce, sealed, cipher.final(), cipher.getAuthTag()]);
}

/**
 * Opens the value found under `name`. Undefined unless a holder of the pepper sealed it for exactly this name, digest
 * and epoch. The result is authentic; the use rule decides if it is fresh.
 */
export function open(
  value: Uint8Array,
  name: Uint8Array,
  wanted: { readonly digest: string; readonly epoch: string },
  keyring: Pick<Keyring, "get">,
): TokenSnapshot | undefined {
  if (value.length < HEADER + NONCE + TAG) return undefined;
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  const header = bytes.subarray(0, HEADER);
  const digits = header.toString("latin1", 0, N_DIGITS);
  const keys = keyring.get(String.fromCharCode(header[N_DIGITS + 1]!));
  if (keys === undefined || header[N_DIGITS] !== SCHEMA || !/^\d{16}$/.test(digits)) return undefined;
  const nonce = bytes.subarray(HEADER, HEADER + NONCE);
  const key = dayKey(keys, header.readUInt32BE(N_DIGITS + 2));
  const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG });
  decipher.setAAD(associated(header, name, wanted.digest, wanted.epoch));
  decipher.setAuthTag(bytes.subarray(bytes.length - TAG));
  let text: string;
  try {
    const opened = decipher.update(bytes.subarray(HEADER + NONCE, bytes.length - TAG));
    text = Buffer.concat([opened, decipher.final()]).toString("utf8");
  } catch {
    // Not sealed by us, or changed since. The caller counts it as a bad seal.
    return undefined;
  }
  return snapshotOf(JSON.parse(text), { digest: wanted.digest, epoch: wanted.epoch, n: Number(digits) });
}

function associated(header: Buffer, name: Uint8Array, digest: string, epoch: string): Buffer {
  // Every field before the one of variable length has a fixed width, so no two lists of fields look alike.
  return Buffer.concat([header, name, Buffer.from(digest, "latin1"), Buffer.from(epoch, "utf8")]);
}

const dayKeys = new WeakMap<Keys, Map<number, KeyObject>>();

function dayKey(keys: Keys, day: number): KeyObject {
  let byDay = dayKeys.get(keys);
  if (byDay === undefined) dayKeys.set(keys, (byDay = new Map()));
  let key = byDay.get(day);
  if (key === undefined) {
    // The day in a value comes from an untrusted cache, so only a few keys are kept.
    if (byDay.size >= 4) byDay.clear();
    const info = `sallyport/v1/cache-seal/${day}`;
    key = createSecretKey(new Uint8Array(hkdfSync("sha256", keys.cacheSeal, "", info, 32)));
    byDay.set(day, key);
  }
  return key;
}

// Fields by position instead of by name: half the size. A change of this list needs a new SCHEMA.
type LivenessFacts = [flags: number, notBefore: number | null, expire: number | null];
type Facts = [
  own: LivenessFacts,
  id: string,
  tenant: string,
  profile: string,
  principal: string,
  scopes: readonly string[],
  audiences: readonly string[],
  allowedCidrs: readonly string[],
  annotations: [string, string][],
  hint: string,
  rotated: 0 | 1,
  principalState: TokenSnapshot["principalState"],
  tenantState: TokenSnapshot["tenantState"],
  roles: readonly string[],
  attachments: [tenant: string, tenantState: TokenSnapshot["tenantState"], cut: 0 | 1][],
  parent: [...LivenessFacts, digest: string, audiences: readonly string[], allowedCidrs: readonly string[]] | null,
];

function livenessFacts(of: Liveness): LivenessFacts {
  const flags = (of.revoked ? 1 : 0) | (of.disabled ? 2 : 0) | (of.cut ? 4 : 0);
  return [flags, of.notBefore ?? null, of.expire ?? null];
}

function livenessOf([flags, notBefore, expire]: LivenessFacts): Liveness {
  return {
    revoked: (flags & 1) !== 0,
    disabled: (flags & 2) !== 0,
    cut: (flags & 4) !== 0,
    notBefore: notBefore ?? undefined,
    expire: expire ?? undefined,
  };
}

function factsOf(m: TokenSnapshot): Facts {
  const { parent } = m;
  return [
    livenessFacts(m),
    m.id,
    m.tenant,
    m.profile,
    m.principal,
    m.scopes,
    m.audiences,
    m.allowedCidrs,
    Object.entries(m.annotations),
    m.hint,
    m.rotated ? 1 : 0,
    m.principalState,
    m.tenantState,
    m.roles,
    m.attachments.map(({ tenant, tenantState, cut }) => [tenant, tenantState, cut ? 1 : 0]),
    parent === undefined
      ? null
      : [
          ...livenessFacts(parent),
          Buffer.from(parent.digest, "latin1").toString("base64url"),
          parent.audiences,
          parent.allowedCidrs,
        ],
  ];
}

function snapshotOf(facts: Facts, from: { digest: string; epoch: string; n: number }): TokenSnapshot {
  const [own, id, tenant, profile, principal, scopes, audiences, allowedCidrs, annotations, hint] = facts;
  const [, , , , , , , , , , rotated, principalState, tenantState, roles, attachments, parent] = facts;
  return {
    version: { epoch: from.epoch, position: from.n },
    id,
    digest: from.digest,
    tenant,
    profile,
    principal,
    scopes,
    roles,
    attachments: attachments.map(([tenant, state, cut]) => ({ tenant, tenantState: state, cut: cut === 1 })),
    audiences,
    allowedCidrs,
    annotations: Object.fromEntries(annotations),
    hint,
    rotated: rotated === 1,
    principalState,
    tenantState,
    ...livenessOf(own),
    parent:
      parent === null
        ? undefined
        : {
            ...livenessOf([parent[0], parent[1], parent[2]]),
            digest: Buffer.from(parent[3], "base64url").toString("latin1"),
            audiences: parent[4],
            allowedCidrs: parent[5],
          },
  };
}
