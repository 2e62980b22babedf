import pg from "pg";
import type { Liveness, Material } from "../domain/material.ts";
import type { PrincipalState, TenantState } from "../domain/principal.ts";
import type { Clock, Reading, TokenReader } from "../ports.ts";
import { EVIDENCE, type EvidenceRow, evidenceOf, HEAD } from "./evidence.ts";
import { connectionSettings } from "./pool.ts";
import { destroySession, standbyWatch } from "./session.ts";
import { keepsConnection, safeCause, unreadable } from "./sqlstate.ts";

// The one statement of a look-up. An unknown token still gives position and epoch.
const LOOK_UP = {
  name: "sallyport-look-up",
  text: `
select ${EVIDENCE},
  t.id, t.tenant, t.profile, t.principal, t.scopes, t.audiences, t.allowed_cidrs, t.annotations, t.hint,
  t.not_before_time, t.expire_time, t.revoke_time is not null as revoked, t.disabled, t.rotated_to <> '' as rotated,
  p.state as principal_state, o.state as tenant_state,
  t.issued_n < p.cut_n or t.issued_n < o.cut_n as cut,
  q.digest as parent_digest, q.not_before_time as parent_not_before_time, q.expire_time as parent_expire_time,
  q.revoke_time is not null as parent_revoked, q.disabled as parent_disabled,
  q.issued_n < p.cut_n or q.issued_n < o.cut_n as parent_cut
from ${HEAD}
  left join sallyport.tokens t on t.digest = $1
  left join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal
  left join sallyport.tenants o on o.id = t.tenant
  left join sallyport.tokens q on q.id = t.parent_id`,
};

interface LookUpRow extends EvidenceRow {
  readonly id: string | null;
  readonly tenant: string;
  readonly profile: string;
  readonly principal: string;
  readonly scopes: string[];
  readonly audiences: string[];
  readonly allowed_cidrs: string[];
  readonly annotations: Record<string, string>;
  readonly hint: string;
  readonly not_before_time: number | null;
  readonly expire_time: number | null;
  readonly revoked: boolean;
  readonly disabled: boolean;
  readonly rotated: boolean;
  readonly principal_state: PrincipalState | null;
  readonly tenant_state: TenantState | null;
  readonly cut: boolean | null;
  readonly parent_digest: Buffer | null;
  readonly parent_not_before_time: number | null;
  readonly parent_expire_time: number | null;
  readonly parent_revoked: boolean;
  readonly parent_disabled: boolean;
  readonly parent_cut: boolean | null;
}

export interface TokenReaderOptions {
  readonly url: string;
  /** Through a pooler: nothing is set on the connections. */
  readonly shared?: boolean;
  /** Pipelined connections, 1 or 2. */
  readonly connections: number;
  readonly clock: Clock;
  readonly onTrouble: (what: string, error: unknown) => void;
}

interface Link {
  readonly client: pg.Client;
  readonly wasStandby: () => boolean;
}

/** One of the connections: from the attempt to connect to its end. */
interface Slot {
  readonly client: pg.Client;
  readonly link: Promise<Link>;
}

/**
 * Reads tokens over a few pipelined connections: single named statements only, each bounded in time. A statement that
 * is late, or a connection that fails, costs the connection; the next read opens another.
 */
export class PostgresTokenReader implements TokenReader {
  readonly #options: TokenReaderOptions;
  readonly #slots: (Slot | undefined)[];
  #next = 0;
  #closed = false;

  constructor(options: TokenReaderOptions) {
    this.#options = options;
    this.#slots = new Array(options.connections).fill(undefined);
  }

  async read(digest: string, timeoutMs: number): Promise<Reading> {
    const deadline = this.#options.clock.mono() + timeoutMs;
    for (let again = true; ; again = false) {
      const at = this.#next++ % this.#slots.length;
      const slot = this.#slot(at);
      try {
        return await this.#readOn(slot, digest, deadline);
      } catch (error) {
        // Of a connection that was given up for what another read met: this one may ask once more.
        const givenUp = this.#slots[at] !== slot;
        if (!givenUp && !keepsConnection(error)) {
          this.#destroy(slot);
          this.#options.onTrouble("database connection lost", safeCause(error));
        }
        if (again && givenUp && !this.#closed && this.#options.clock.mono() < deadline) continue;
        throw unreadable(error);
      }
    }
  }

  async #readOn(slot: Slot | undefined, digest: string, deadline: number): Promise<Reading> {
    const { clock } = this.#options;
    if (slot === undefined) throw new Error("closed");
    const { client, wasStandby } = await within(slot.link, deadline - clock.mono());
    const sent = clock.mono();
    const query = client.query<LookUpRow>({ ...LOOK_UP, values: [Buffer.from(digest, "latin1")] });
    const { rows } = await within(query, deadline - clock.mono());
    const received = clock.mono();
    const row = rows[0];
    if (row === undefined) throw new Error("the head row is missing");
    const evidence = evidenceOf(row);
    const inRecovery = evidence.inRecovery || wasStandby();
    return { ...evidence, inRecovery, material: materialOf(row, digest, evidence), sent, received };
  }

  distrust(): void {
    for (const slot of [...this.#slots]) this.#destroy(slot);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.distrust();
  }

  #slot(at: number): Slot | undefined {
    if (this.#closed) return undefined;
    const open = this.#slots[at];
    if (open !== undefined) return open;
    const client = new pg.Client({
      ...connectionSettings(this.#options.url, "sallyport-read", this.#options.shared),
      pipeline: true,
    } as pg.ClientConfig);
    const wasStandby = standbyWatch(client);
    const slot: Slot = { client, link: client.connect().then(() => ({ client, wasStandby })) };
    const forget = () => {
      if (this.#slots[at] === slot) this.#slots[at] = undefined;
    };
    client.on("error", (error) => {
      if (this.#slots[at] !== slot) return;
      forget();
      this.#options.onTrouble("database connection lost", safeCause(error));
    });
    client.on("end", forget);
    slot.link.catch(forget);
    this.#slots[at] = slot;
    return slot;
  }

  /** At once, with all that is under way on it: `end()` would let that finish, and wait for a server that may be away. */
  #destroy(slot: Slot | undefined): void {
    if (slot === undefined) return;
    const at = this.#slots.indexOf(slot);
    if (at >= 0) this.#slots[at] = undefined;
    destroySession(slot.client);
  }
}

function materialOf(row: LookUpRow, digest: string, label: { epoch: string; n: number }): Material | undefined {
  if (row.id === null) return undefined;
  return {
    label: { epoch: label.epoch, n: label.n },
    id: row.id,
    digest,
    tenant: row.tenant,
    profile: row.profile,
    principal: row.principal,
    scopes: row.scopes,
    audiences: row.audiences,
    allowedCidrs: row.allowed_cidrs,
    annotations: row.annotations,
    hint: row.hint,
    rotated: row.rotated,
    revoked: row.revoked,
    disabled: row.disabled,
    notBefore: row.not_before_time ?? undefined,
    expire: row.expire_time ?? undefined,
    // A missing principal or tenant row refuses.
    cut: row.cut ?? true,
    principalState: row.principal_state ?? "DELETED",
    tenantState: row.tenant_state ?? "SUSPENDED",
    parent: parentOf(row),
  };
}

function parentOf(row: LookUpRow): (Liveness & { digest: string }) | undefined {
  if (row.parent_digest === null) return undefined;
  return {
    digest: row.parent_digest.toString("latin1"),
    revoked: row.parent_revoked,
    disabled: row.parent_disabled,
    notBefore: row.parent_not_before_time ?? undefined,
    expire: row.parent_expire_time ?? undefined,
    cut: row.parent_cut ?? true,
  };
}

async function within<T>(promise: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("timeout")), Math.max(0, ms));
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
    promise.catch(() => {});
  }
}
