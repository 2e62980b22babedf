import pg from "pg";
import type { Clock } from "../domain/clock.ts";
import { earlier } from "../domain/lifetime.ts";
import type { PrincipalState, TenantState } from "../domain/principal.ts";
import { union, withinParent } from "../domain/rights.ts";
import type { Attachment, Parent, TokenSnapshot } from "../domain/token-snapshot.ts";
import type { Trouble } from "../telemetry/events.ts";
import type { Reading, TokenReader } from "../validation/ports.ts";
import { EVIDENCE, type EvidenceRow, evidenceOf, HEAD, isProven, PROVEN } from "./evidence.ts";
import { CONNECT_MS, connectionSettings } from "./pool.ts";
import { attachmentsSql, grantedScopesSql, roleScopesSql } from "./rows.ts";
import { destroySession, standbyWatch } from "./session.ts";
import { keepsConnection, safeCause, sqlstate, unreadable } from "./sqlstate.ts";

// The only statement of a lookup. For an unknown token it still returns position and epoch.
const LOOK_UP = {
  name: "sallyport-look-up",
  text: `
select ${EVIDENCE}, ${PROVEN},
  t.id, t.tenant, t.profile, t.principal, t.scopes, t.roles, ${roleScopesSql("t")} as role_scopes,
  ${attachmentsSql("t", "q")} as attachments,
  t.audiences, t.allowed_cidrs, t.annotations, t.hint,
  t.not_before_time, t.expire_time, t.revoke_time is not null as revoked, t.disabled, t.rotated_to <> '' as rotated,
  p.state as principal_state, o.state as tenant_state,
  t.issued_n < p.cut_n or t.issued_n < o.cut_n as cut,
  q.digest as parent_digest, ${grantedScopesSql("q")} as parent_scopes, q.roles as parent_roles, q.audiences as parent_audiences,
  q.allowed_cidrs as parent_allowed_cidrs, q.not_before_time as parent_not_before_time, q.expire_time as parent_expire_time,
  q.revoke_time is not null as parent_revoked, q.disabled as parent_disabled,
  q.issued_n < p.cut_n or q.issued_n < o.cut_n as parent_cut, t.parent_id is not null and q.id is null as orphan
from ${HEAD}
  left join sallyport.tokens t on t.digest = $1
  left join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal
  left join sallyport.tenants o on o.id = t.tenant
  left join sallyport.tokens q on q.id = t.parent_id`,
};

const QUERY_CANCELED = "57014";
/** The server's bound for a read whose caller has given up. Milliseconds. */
const STATEMENT_MS = 500;

interface LookUpRow extends EvidenceRow {
  readonly proven: string | null;
  readonly id: string | null;
  readonly tenant: string;
  readonly profile: string;
  readonly principal: string;
  readonly scopes: string[];
  readonly roles: string[];
  readonly role_scopes: string[];
  readonly attachments: readonly Attachment[] | null;
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
  readonly parent_scopes: string[];
  readonly parent_roles: string[];
  readonly parent_audiences: string[];
  readonly parent_allowed_cidrs: string[];
  readonly parent_not_before_time: number | null;
  readonly parent_expire_time: number | null;
  readonly parent_revoked: boolean;
  readonly parent_disabled: boolean;
  readonly parent_cut: boolean | null;
  readonly orphan: boolean;
}

export interface TokenReaderOptions {
  readonly url: string;
  /** The connections go through a pooler: nothing is set on them. */
  readonly shared?: boolean;
  /** Pipelined connections, 1 or 2. */
  readonly connections: number;
  readonly clock: Clock;
  readonly onTrouble: (name: Trouble, error: unknown) => void;
}

/** One of the connections, from the attempt to connect to its end. */
interface Slot {
  readonly client: pg.Client;
  readonly link: Promise<pg.Client>;
  readonly wasStandby: () => boolean;
  /** True once it has answered a look-up. */
  warm: boolean;
}

/**
 * Reads tokens over a few pipelined connections: only single named statements, each bounded in time. A late statement
 * or a failed connection costs the connection; the next read opens another.
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

  /** Opens all connections before the first call needs one. */
  warmUp(): void {
    for (const at of this.#slots.keys()) this.#slot(at);
  }

  /** True if a connection has answered a lookup. */
  get warm(): boolean {
    return this.#slots.some((slot) => slot?.warm === true);
  }

  async read(digest: string, timeoutMs: number): Promise<Reading> {
    const deadline = this.#options.clock.mono() + timeoutMs;
    for (let again = true; ; again = false) {
      const at = this.#choose();
      const slot = this.#slot(at);
      const warm = slot?.warm === true;
      try {
        return await this.#readOn(slot, digest, deadline);
      } catch (error) {
        // Another read gave up this connection. This read may try once more.
        const givenUp = this.#slots[at] !== slot;
        // A connection that is still opening is kept. It is late for this call only.
        if (!givenUp && warm && !keepsConnection(error)) {
          this.#destroy(slot);
          this.#options.onTrouble("database_connection_lost", safeCause(error));
        }
        if (again && givenUp && !this.#closed && this.#options.clock.mono() < deadline) continue;
        throw unreadable(error);
      }
    }
  }

  async #readOn(slot: Slot | undefined, digest: string, deadline: number): Promise<Reading> {
    const { clock } = this.#options;
    if (slot === undefined) throw new Error("closed");
    const client = await within(slot.link, deadline - clock.mono());
    const sent = clock.mono();
    const query = client.query<LookUpRow>({ ...LOOK_UP, values: [Buffer.from(digest, "latin1")] });
    const { rows } = await within(query, deadline - clock.mono());
    const received = clock.mono();
    const row = rows[0];
    if (row === undefined) throw new Error("the head row is missing");
    const evidence = evidenceOf(row);
    const inRecovery = evidence.inRecovery || slot.wasStandby();
    const snapshot = snapshotOf(row, digest, evidence);
    return { ...evidence, inRecovery, proven: isProven(row), snapshot, sent, received };
  }

  reconnect(): void {
    for (const slot of [...this.#slots]) this.#destroy(slot);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.reconnect();
  }

  #slot(at: number): Slot | undefined {
    if (this.#closed) return undefined;
    const open = this.#slots[at];
    if (open !== undefined) return open;
    const { url, shared } = this.#options;
    const client = new pg.Client({
      ...connectionSettings(url, "sallyport-read", shared, STATEMENT_MS),
      pipeline: true,
    } as pg.ClientConfig);
    const wasStandby = standbyWatch(client);
    const slot: Slot = { client, link: connected(client), wasStandby, warm: false };
    const forget = () => {
      if (this.#slots[at] === slot) this.#slots[at] = undefined;
    };
    client.on("error", (error) => {
      if (this.#slots[at] !== slot) return;
      forget();
      this.#options.onTrouble("database_connection_lost", safeCause(error));
    });
    client.on("end", forget);
    slot.link.then(() => (slot.warm = true), forget);
    this.#slots[at] = slot;
    return slot;
  }

  /** The next connection in turn. It prefers a warm one over one that is still opening. */
  #choose(): number {
    const first = this.#next++;
    const order = this.#slots.map((_, i) => (first + i) % this.#slots.length);
    const warm = order.find((at) => this.#slots[at]?.warm === true);
    if (warm !== order[0]) this.#slot(order[0]!);
    return warm ?? order[0]!;
  }

  /** Ends it and its statements immediately. `end()` would wait for a server that may be away. */
  #destroy(slot: Slot | undefined): void {
    if (slot === undefined) return;
    const at = this.#slots.indexOf(slot);
    if (at >= 0) this.#slots[at] = undefined;
    destroySession(slot.client);
  }
}

/**
 * Connects and makes one lookup of no token. The first lookup of a session can take longer than a call may wait, so it is
 * part of connecting. A late connection is kept for the next calls.
 */
async function connected(client: pg.Client): Promise<pg.Client> {
  try {
    await client.connect();
    let late = false;
    const answered = async () => {
      // One too slow even for the server's own bound says nothing, but the next one on the connection is faster.
      while (!(await lookedUp(client)) && !late);
    };
    await within(answered(), CONNECT_MS).finally(() => (late = true));
    return client;
  } catch (error) {
    destroySession(client);
    throw error;
  }
}

/** Returns true if the look-up of an unknown token is answered; false if the server cancelled it. */
async function lookedUp(client: pg.Client): Promise<boolean> {
  try {
    await client.query({ ...LOOK_UP, values: [Buffer.alloc(32)] });
    return true;
  } catch (error) {
    if (sqlstate(error) === QUERY_CANCELED) return false;
    throw error;
  }
}

const NOT_ATTACHED: readonly Attachment[] = Object.freeze([]);

function snapshotOf(
  row: LookUpRow,
  digest: string,
  version: { epoch: string; position: number },
): TokenSnapshot | undefined {
  if (row.id === null) return undefined;
  const parent = parentOf(row);
  const granted = union(row.scopes, row.role_scopes);
  return {
    version: { epoch: version.epoch, position: version.position },
    id: row.id,
    digest,
    tenant: row.tenant,
    profile: row.profile,
    principal: row.principal,
    // A child has only the rights that its parent still has.
    scopes: parent === undefined ? granted : withinParent(granted, row.parent_scopes),
    roles: parent === undefined ? row.roles : union(row.roles, row.parent_roles),
    attachments: row.attachments ?? NOT_ATTACHED,
    audiences: row.audiences.length === 0 && parent !== undefined ? parent.audiences : row.audiences,
    allowedCidrs: row.allowed_cidrs,
    annotations: row.annotations,
    hint: row.hint,
    rotated: row.rotated,
    revoked: row.revoked,
    disabled: row.disabled,
    notBefore: row.not_before_time ?? undefined,
    expire: earlier(row.expire_time ?? undefined, parent?.expire),
    // If the row of its principal, tenant or parent is missing, the token counts as cut.
    cut: row.orphan || (row.cut ?? true),
    principalState: row.principal_state ?? "DELETED",
    tenantState: row.tenant_state ?? "SUSPENDED",
    parent,
  };
}

function parentOf(row: LookUpRow): Parent | undefined {
  if (row.parent_digest === null) return undefined;
  return {
    digest: row.parent_digest.toString("latin1"),
    audiences: row.parent_audiences,
    allowedCidrs: row.parent_allowed_cidrs,
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
