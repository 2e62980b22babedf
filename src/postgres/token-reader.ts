import pg from "pg";
import { earlier } from "../domain/lifetime.ts";
import type { Material, Parent } from "../domain/material.ts";
import type { PrincipalState, TenantState } from "../domain/principal.ts";
import { withinParent } from "../domain/rights.ts";
import type { Clock, Reading, TokenReader } from "../ports.ts";
import { EVIDENCE, type EvidenceRow, evidenceOf, HEAD } from "./evidence.ts";
import { CONNECT_MS, connectionSettings } from "./pool.ts";
import { keepsConnection, safeCause, sqlstate, unreadable } from "./sqlstate.ts";

// The one statement of a look-up. An unknown token still gives position and epoch.
const LOOK_UP = {
  name: "sallyport-look-up",
  text: `
select ${EVIDENCE},
  t.id, t.tenant, t.profile, t.principal, t.scopes, t.audiences, t.allowed_cidrs, t.annotations, t.hint,
  t.not_before_time, t.expire_time, t.revoke_time is not null as revoked, t.disabled, t.rotated_to <> '' as rotated,
  p.state as principal_state, o.state as tenant_state,
  t.issued_n < p.cut_n or t.issued_n < o.cut_n as cut,
  q.digest as parent_digest, q.scopes as parent_scopes, q.audiences as parent_audiences,
  q.allowed_cidrs as parent_allowed_cidrs, q.not_before_time as parent_not_before_time, q.expire_time as parent_expire_time,
  q.revoke_time is not null as parent_revoked, q.disabled as parent_disabled,
  q.issued_n < p.cut_n or q.issued_n < o.cut_n as parent_cut
from ${HEAD}
  left join sallyport.tokens t on t.digest = $1
  left join sallyport.principals p on p.tenant = t.tenant and p.name = t.principal
  left join sallyport.tenants o on o.id = t.tenant
  left join sallyport.tokens q on q.id = t.parent_id`,
};

const QUERY_CANCELED = "57014";
/** The server's own bound: of a read that nobody waits for any more. Milliseconds. */
const STATEMENT_MS = 500;

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
  readonly parent_scopes: string[];
  readonly parent_audiences: string[];
  readonly parent_allowed_cidrs: string[];
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

/**
 * Reads tokens over a few pipelined connections: single named statements only, each bounded in time. A statement that
 * is late, or a connection that fails, costs the connection; the next read opens another.
 */
export class PostgresTokenReader implements TokenReader {
  readonly #options: TokenReaderOptions;
  readonly #slots: (Promise<pg.Client> | undefined)[];
  /** Those that have answered a look-up. */
  readonly #warm = new WeakSet<Promise<pg.Client>>();
  #next = 0;
  #closed = false;

  constructor(options: TokenReaderOptions) {
    this.#options = options;
    this.#slots = new Array(options.connections).fill(undefined);
  }

  /** Opens what is not open, before anybody waits for it. */
  warmUp(): void {
    for (const slot of this.#slots.keys()) this.#client(slot).catch(() => {});
  }

  /** Whether there is a connection that has answered a look-up. */
  get warm(): boolean {
    return this.#slots.some((pending) => pending !== undefined && this.#warm.has(pending));
  }

  async read(digest: string, timeoutMs: number): Promise<Reading> {
    const slot = this.#choose();
    const { clock } = this.#options;
    const deadline = clock.mono() + timeoutMs;
    let client: pg.Client | undefined;
    try {
      client = await within(this.#client(slot), timeoutMs);
      const sent = clock.mono();
      const query = client.query<LookUpRow>({ ...LOOK_UP, values: [Buffer.from(digest, "latin1")] });
      const { rows } = await within(query, deadline - clock.mono());
      const received = clock.mono();
      const row = rows[0];
      if (row === undefined) throw new Error("the head row is missing");
      const evidence = evidenceOf(row);
      return { ...evidence, material: materialOf(row, digest, evidence), sent, received };
    } catch (error) {
      if (client !== undefined && !keepsConnection(error)) this.#destroy(slot, client);
      throw unreadable(error);
    }
  }

  distrust(): void {
    for (const [slot, pending] of this.#slots.entries()) {
      this.#slots[slot] = undefined;
      pending?.then((client) => void client.end().catch(() => {})).catch(() => {});
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.distrust();
  }

  #client(slot: number): Promise<pg.Client> {
    if (this.#closed) return Promise.reject(new Error("closed"));
    const open = this.#slots[slot];
    if (open !== undefined) return open;
    const { url, shared } = this.#options;
    const client = new pg.Client({
      ...connectionSettings(url, "sallyport-read", shared, STATEMENT_MS),
      pipeline: true,
    } as pg.ClientConfig);
    const pending = connected(client);
    pending.then(() => this.#warm.add(pending)).catch(() => {});
    const forget = () => {
      if (this.#slots[slot] === pending) this.#slots[slot] = undefined;
    };
    client.on("error", (error) => {
      forget();
      this.#options.onTrouble("database connection lost", safeCause(error));
    });
    client.on("end", forget);
    pending.catch(forget);
    this.#slots[slot] = pending;
    return pending;
  }

  /** The next in turn; one that is still being opened only where no other is there. */
  #choose(): number {
    const first = this.#next++;
    const slots = this.#slots.map((_, at) => (first + at) % this.#slots.length);
    const warm = slots.find((slot) => this.#warm.has(this.#slots[slot]!));
    if (warm !== slots[0]) this.#client(slots[0]!).catch(() => {});
    return warm ?? slots[0]!;
  }

  #destroy(slot: number, client: pg.Client): void {
    const pending = this.#slots[slot];
    void pending?.then(
      (current) => {
        if (current === client && this.#slots[slot] === pending) this.#slots[slot] = undefined;
      },
      () => {},
    );
    // `end()` would wait for the server that does not answer.
    destroyStream(client);
  }
}

/**
 * Connects, and looks up what is no token: a session's first look-up can be much slower than what a call waits for, and
 * is part of the connecting. However late, the connection is then kept for the calls that follow.
 */
async function connected(client: pg.Client): Promise<pg.Client> {
  try {
    await client.connect();
    const first = client.query({ ...LOOK_UP, values: [Buffer.alloc(32)] }).then(
      () => {},
      (error) => {
        // Too slow even for the server's own bound: the next one on it is faster.
        if (sqlstate(error) !== QUERY_CANCELED) throw error;
      },
    );
    await within(first, CONNECT_MS);
    return client;
  } catch (error) {
    destroyStream(client);
    throw error;
  }
}

function destroyStream(client: pg.Client): void {
  (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
}

function materialOf(row: LookUpRow, digest: string, label: { epoch: string; n: number }): Material | undefined {
  if (row.id === null) return undefined;
  const parent = parentOf(row);
  return {
    label: { epoch: label.epoch, n: label.n },
    id: row.id,
    digest,
    tenant: row.tenant,
    profile: row.profile,
    principal: row.principal,
    // A child shows what it has of its parent's, whatever its own row says.
    scopes: parent === undefined ? row.scopes : withinParent(row.scopes, row.parent_scopes),
    audiences: row.audiences.length === 0 && parent !== undefined ? parent.audiences : row.audiences,
    allowedCidrs: row.allowed_cidrs,
    annotations: row.annotations,
    hint: row.hint,
    rotated: row.rotated,
    revoked: row.revoked,
    disabled: row.disabled,
    notBefore: row.not_before_time ?? undefined,
    expire: earlier(row.expire_time ?? undefined, parent?.expire),
    // A missing principal or tenant row refuses.
    cut: row.cut ?? true,
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
