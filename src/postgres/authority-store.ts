import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import { earlier, expiry, isLater } from "../domain/lifetime.ts";
import type { Principal, Tenant } from "../domain/principal.ts";
import {
  type Asker,
  canWiden,
  checkMayEnd,
  type Held,
  judgeUpdate,
  mayNotEnd,
  type Rights,
  touchesRights,
} from "../domain/rights.ts";
import type { Token } from "../domain/token.ts";
import type { AuthorityStore, PrincipalChange, TenantChange, TokenChange } from "../revocation/authority-store.ts";
import type { Committed } from "../revocation/ports.ts";
import { appendAudit, appendRepeat, emitOnly } from "./audit-log.ts";
import { lockForRaising, lockTarget } from "./caller-guard.ts";
import { committed, PROOF, type ProofRow, proven } from "./committed.ts";
import { HEAD } from "./evidence.ts";
import { checkHolders, rankText, spares } from "./holders.ts";
import { guardWidening, mint, parentOf, readHeld, readToken, refuseDead, rotate } from "./minting.ts";
import type { Postgres, Tx } from "./pool.ts";
import { RevokeQueue } from "./revoke-queue.ts";
import {
  type Fields,
  PRINCIPAL_COLUMNS,
  type PrincipalRow,
  principalOf,
  TENANT_COLUMNS,
  type TenantRow,
  tenantOf,
  updateToken,
} from "./rows.ts";

/**
 * $1 ids, $2 by whom, $3 why, $4 and $5 address and request of the audit rows, $6 the rank of whom. */
const REVOKE_CHUNK = {
  name: "sallyport-revoke-chunk",
  text: `
with mine as materialized (
  select id, scopes, revoke_time from sallyport.tokens where id = any($1::text[]) order by id for no key update skip locked
),
-- A string that a rotation ended, and that is revoked now, repeats no request.
forgotten as (
  delete from sallyport.requests r using mine where r.caller = mine.id
),
done as (
  update sallyport.tokens t set revoke_time = date_trunc('milliseconds', clock_timestamp()), revoked_by = $2,
    revoke_reason = $3
  from mine where t.id = mine.id and t.revoke_time is null and not ${spares("$6::text", "t.scopes")} returning t.id, t.tenant, t.principal
),
why (why) as (select case when $3::text = '' then '{}'::jsonb else jsonb_build_object('reason', $3::text) end),
audited as (
  insert into sallyport.audit (tenant, actor, actor_address, action, target, owner, metadata, request_id)
  select tenant, $2, $4, 'token.revoke', 'token:' || id, principal, '{"bulk": "true"}'::jsonb || why.why, $5 from done, why
)
select ${PROOF}, array(select id from done) as revoked, array(
  select id from sallyport.tokens t where id = any($1) and not exists (select from mine where mine.id = t.id)
) as busy, exists (
  select from mine where revoke_time is null and not exists (select from done where done.id = mine.id)
) as spared
from ${HEAD}`,
};

type Args<K extends keyof AuthorityStore> = Parameters<AuthorityStore[K]>;

/** Every change of authority: one transaction each, with its audit row; its place in the log is taken by trigger. */
export class PostgresAuthorityStore implements AuthorityStore {
  readonly #db: Postgres;
  readonly #revokes: RevokeQueue;

  constructor(db: Postgres) {
    this.#db = db;
    this.#revokes = new RevokeQueue(db);
  }

  createToken(...[token, lifetime, guard, limits, actor, idempotency]: Args<"createToken">) {
    return this.#db.transaction((tx) => mint(tx, token, lifetime, guard, limits, actor, idempotency));
  }

  rotateToken(...[id, fresh, lifetime, overlapMs, guard, actor, idempotency]: Args<"rotateToken">) {
    return committed(this.#db, (tx) => rotate(tx, id, fresh, lifetime, overlapMs, guard, actor, idempotency));
  }

  updateToken(...[id, change, etag, rule, guard, actor]: Args<"updateToken">): Promise<Committed<Token>> {
    return committed(this.#db, async (tx) => {
      const asker = canWiden(change) ? await guardWidening(tx, await readToken(tx, id), guard) : undefined;
      await tx.query("select from sallyport.tokens where id = $1 for no key update", [id]);
      const token = await readHeld(tx, id);
      checkEtag(etag, token.etag);
      refuseDead(token);
      if (touchesRights(change)) checkMayEnd(actor.rank, token.scopes);
      await writeTokenChange(tx, token, change, rule, guard.rights, asker);
      const fields = Object.keys(change).sort().join(" ");
      await audit(tx, actor, token.tenant, "token.update", `token:${id}`, token.principal, { fields });
      return readToken(tx, id);
    });
  }

  revokeToken(...[id, family, reason, actor]: Args<"revokeToken">): Promise<Committed<Token>> {
    return family ? this.#revokeFamily(id, reason, actor) : this.#revokes.add({ id, reason, actor });
  }

  #revokeFamily(id: string, reason: string, actor: AuditActor): Promise<Committed<Token>> {
    return committed(this.#db, async (tx) => {
      const token = await readHeld(tx, id);
      const { family } = token;
      // Again until no row is left: a rotation may have added one while the update waited for its lock.
      const revoked: string[] = [];
      for (;;) {
        const held = await tx.query<{ scopes: string[] }>(
          `select scopes from sallyport.tokens where family = $1 and revoke_time is null order by id for no key update`,
          [family],
        );
        for (const { scopes } of held) checkMayEnd(actor.rank, scopes);
        const rows = await tx.query<{ id: string }>(
          `update sallyport.tokens set revoke_time = date_trunc('milliseconds', clock_timestamp()), revoked_by = $2,
             revoke_reason = $3
           where family = $1 and revoke_time is null returning id`,
          [family, actor.actor, reason],
        );
        if (rows.length === 0) break;
        revoked.push(...rows.map((row) => row.id));
      }
      // A string that a rotation ended repeats no request once its family is revoked.
      await tx.query(
        "delete from sallyport.requests r using sallyport.tokens t where t.family = $1 and r.caller = t.id",
        [family],
      );
      const metadata = { family: "true", ...why(reason) };
      if (revoked.length === 0) {
        await repeated(tx, actor, token.tenant, "token.revoke", `token:${id}`, token.principal, metadata);
      } else {
        for (const target of new Set([id, ...revoked])) {
          await audit(tx, actor, token.tenant, "token.revoke", `token:${target}`, token.principal, metadata);
        }
      }
      return readToken(tx, id);
    });
  }

  revokeChunk(...[tenant, ids, reason, actor]: Args<"revokeChunk">): ReturnType<AuthorityStore["revokeChunk"]> {
    return this.#db.transaction(async (tx) => {
      const [row] = await tx.query<ProofRow & { revoked: string[]; busy: string[]; spared: boolean }>(REVOKE_CHUNK, [
        ids,
        actor.actor,
        reason,
        actor.address,
        actor.requestId,
        rankText(actor.rank),
      ]);
      // Locked and alive, yet not ended: it was spared, by its scopes now or as the statement began.
      if (row?.spared === true) throw mayNotEnd();
      const { revoked = [], busy = [] } = row ?? {};
      if (revoked.length === 0) {
        const metadata = { revoked: "0", ...why(reason) };
        if (busy.length > 0) await emitOnly(tx);
        else await repeated(tx, actor, tenant, "tokens.revoke", "tokens:", "", metadata);
      }
      return proven({ revoked, busy }, row);
    });
  }

  cut(...[tenant, principal, mustExist, reason, actor]: Args<"cut">): Promise<Committed<number>> {
    return committed(this.#db, async (tx) => {
      // Before the upsert: a first mint that is not yet committed would be missed otherwise.
      await lockTarget(tx, { tenant, principal });
      await checkHolders(tx, actor.rank, tenant, principal);
      if (principal === undefined) {
        // The new position is set at the commit.
        const [row] = await tx.query<{ cut_n: number }>(
          "update sallyport.tenants set cut_time = clock_timestamp() where id = $1 returning cut_n",
          [tenant],
        );
        if (row === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
        await audit(tx, actor, tenant, "tokens.revoke", `tenant:${tenant}`, "", why(reason));
        return row.cut_n;
      }
      if (mustExist) await this.#mustExist(tx, tenant, principal);
      const [row] = await tx.query<{ cut_n: number }>(
        `insert into sallyport.principals (tenant, name, cut_time)
         select id, $2, clock_timestamp() from sallyport.tenants where id = $1
         on conflict (tenant, name) do update set cut_time = clock_timestamp() returning cut_n`,
        [tenant, principal],
      );
      if (row === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
      await audit(tx, actor, tenant, "tokens.revoke", `principal:${principal}`, principal, why(reason));
      return row.cut_n;
    });
  }

  createPrincipal(
    ...[principal, guard, actor]: Args<"createPrincipal">
  ): ReturnType<AuthorityStore["createPrincipal"]> {
    return committed(this.#db, async (tx) => {
      await lockForRaising(tx, { tenant: principal.tenant, principal: principal.name }, guard);
      const tenant = await tx.query<{ state: string }>("select state from sallyport.tenants where id = $1", [
        principal.tenant,
      ]);
      if (tenant[0] === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
      if (tenant[0].state !== "ACTIVE") throw new AppError("TENANT_SUSPENDED", "the tenant is suspended");
      // A deleted name comes back with its cut: the tokens of before stay dead.
      const rows = await tx.query<PrincipalRow>(
        `insert into sallyport.principals as p (tenant, name, display_name, email, owner, state, annotations)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (tenant, name) do update set display_name = excluded.display_name, email = excluded.email,
           owner = excluded.owner, state = excluded.state, annotations = excluded.annotations,
           create_time = date_trunc('milliseconds', clock_timestamp())
         where p.state = 'DELETED' returning ${PRINCIPAL_COLUMNS}`,
        [
          principal.tenant,
          principal.name,
          principal.displayName,
          principal.email,
          principal.owner,
          principal.state,
          JSON.stringify(principal.annotations),
        ],
      );
      const target = `principal:${principal.name}`;
      if (rows[0] === undefined) {
        const refusal = new AppError("PRINCIPAL_EXISTS", "the principal exists");
        return refused(tx, actor, principal.tenant, "principal.create", target, principal.name, refusal);
      }
      await audit(tx, actor, principal.tenant, "principal.create", target, principal.name, {});
      return principalOf(rows[0]);
    });
  }

  updatePrincipal(
    ...[tenant, name, change, etag, guard, actor]: Args<"updatePrincipal">
  ): Promise<Committed<Principal>> {
    return committed(this.#db, async (tx) => {
      const target = { tenant, principal: name };
      // What only takes away waits for no caller.
      if (change.state === "DISABLED") await lockTarget(tx, target);
      else await lockForRaising(tx, target, guard);
      const found = await this.#lockPrincipal(tx, tenant, name);
      checkEtag(etag, found.etag);
      if (change.state !== undefined && change.state !== found.state) await checkHolders(tx, actor.rank, tenant, name);
      const set = assignments(change, PRINCIPAL_FIELDS);
      const rows = await tx.query<PrincipalRow>(
        `update sallyport.principals set ${set.text} where tenant = $1 and name = $2 returning ${PRINCIPAL_COLUMNS}`,
        [tenant, name, ...set.values],
      );
      const fields = Object.keys(change).sort().join(" ");
      const state: Record<string, string> = change.state === undefined ? {} : { state: change.state };
      await audit(tx, actor, tenant, "principal.update", `principal:${name}`, name, { fields, ...state });
      return principalOf(rows[0]!);
    });
  }

  deletePrincipal(...[tenant, name, actor]: Args<"deletePrincipal">): Promise<Committed<Principal>> {
    return committed(this.#db, async (tx) => {
      await lockTarget(tx, { tenant, principal: name });
      const found = await this.#lockPrincipal(tx, tenant, name, "or deleted");
      if (found.state === "DELETED") {
        await audit(tx, actor, tenant, "principal.delete", `principal:${name}`, name, { repeat: "true" });
        return found;
      }
      await checkHolders(tx, actor.rank, tenant, name);
      const rows = await tx.query<PrincipalRow>(
        `update sallyport.principals set state = 'DELETED', cut_time = clock_timestamp()
         where tenant = $1 and name = $2 returning ${PRINCIPAL_COLUMNS}`,
        [tenant, name],
      );
      await audit(tx, actor, tenant, "principal.delete", `principal:${name}`, name, {});
      return principalOf(rows[0]!);
    });
  }

  createTenant(...[tenant, guard, actor]: Args<"createTenant">): ReturnType<AuthorityStore["createTenant"]> {
    return committed(this.#db, async (tx) => {
      await lockForRaising(tx, { tenant: tenant.id }, guard);
      const rows = await tx.query<TenantRow>(
        `insert into sallyport.tenants (id, display_name, state, annotations) values ($1, $2, $3, $4)
         on conflict do nothing returning ${TENANT_COLUMNS}`,
        [tenant.id, tenant.displayName, tenant.state, JSON.stringify(tenant.annotations)],
      );
      if (rows[0] === undefined) {
        const refusal = new AppError("TENANT_EXISTS", "the tenant exists");
        return refused(tx, actor, tenant.id, "tenant.create", `tenant:${tenant.id}`, "", refusal);
      }
      await audit(tx, actor, tenant.id, "tenant.create", `tenant:${tenant.id}`, "", {});
      return tenantOf(rows[0]);
    });
  }

  updateTenant(...[id, change, etag, guard, actor]: Args<"updateTenant">): Promise<Committed<Tenant>> {
    return committed(this.#db, async (tx) => {
      if (change.state === "SUSPENDED") await lockTarget(tx, { tenant: id });
      else await lockForRaising(tx, { tenant: id }, guard);
      const found = await tx.query<TenantRow>(
        `select ${TENANT_COLUMNS} from sallyport.tenants where id = $1 for no key update`,
        [id],
      );
      if (found[0] === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
      checkEtag(etag, tenantOf(found[0]).etag);
      const set = assignments(change, TENANT_FIELDS, 2);
      const rows = await tx.query<TenantRow>(
        `update sallyport.tenants set ${set.text} where id = $1 returning ${TENANT_COLUMNS}`,
        [id, ...set.values],
      );
      const fields = Object.keys(change).sort().join(" ");
      const state: Record<string, string> = change.state === undefined ? {} : { state: change.state };
      await audit(tx, actor, id, "tenant.update", `tenant:${id}`, "", { fields, ...state });
      return tenantOf(rows[0]!);
    });
  }

  async #mustExist(tx: Tx, tenant: string, name: string): Promise<void> {
    const [row] = await tx.query<{ tenant: boolean; principal: boolean }>(
      `select exists (select from sallyport.tenants where id = $1) as tenant,
         exists (select from sallyport.principals where tenant = $1 and name = $2) as principal`,
      [tenant, name],
    );
    if (row?.tenant !== true) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
    if (!row.principal) throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal");
  }

  async #lockPrincipal(tx: Tx, tenant: string, name: string, deleted?: "or deleted"): Promise<Principal> {
    const rows = await tx.query<PrincipalRow>(
      `select ${PRINCIPAL_COLUMNS} from sallyport.principals where tenant = $1 and name = $2 for no key update`,
      [tenant, name],
    );
    const row = rows[0];
    if (row === undefined || (row.state === "DELETED" && deleted === undefined)) {
      throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal");
    }
    return principalOf(row);
  }
}

/** Why something was revoked, as its audit row tells it. */
function why(reason: string): Record<string, string> {
  return reason === "" ? {} : { reason };
}

async function audit(
  tx: Tx,
  actor: AuditActor,
  tenant: string,
  action: string,
  target: string,
  owner: string,
  metadata: Record<string, string>,
): Promise<void> {
  await appendAudit(tx, [{ ...actor, tenant, action, target, owner, outcome: "OK", metadata }]);
}

/** The row of a call that found all done. */
async function repeated(
  tx: Tx,
  actor: AuditActor,
  tenant: string,
  action: string,
  target: string,
  owner: string,
  metadata: Record<string, string>,
): Promise<void> {
  await appendRepeat(tx, { ...actor, tenant, action, target, owner, outcome: "OK", metadata });
}

/** That it is there already may be an earlier call's doing: told after a commit, as that call would have told it. */
async function refused(
  tx: Tx,
  actor: AuditActor,
  tenant: string,
  action: string,
  target: string,
  owner: string,
  refusal: AppError,
): Promise<AppError> {
  const metadata = { reason: refusal.reason };
  await appendAudit(tx, [{ ...actor, tenant, action, target, owner, outcome: "DENIED", metadata }]);
  return refusal;
}

async function writeTokenChange(
  tx: Tx,
  token: Held,
  change: TokenChange,
  rule: { maxTtl: number },
  rights: Rights | undefined,
  asker: Asker | undefined,
): Promise<void> {
  const { noExpiry, expireTime, ...others } = change;
  const fields = Object.fromEntries(Object.entries(others).filter(([, value]) => value !== undefined));
  const end = asker && (await endOf(tx, token, change, rule, rights, asker));
  if (asker === undefined || end === undefined) return write(tx, token.id, fields);
  if (!isLater(token.expireTime, end.expire)) return write(tx, token.id, { ...fields, expireTime: end.expire });
  // What was shortened by hand does not renew itself to what it was.
  const familyLife = earlier(token.familyLife, end.expire! - asker.now);
  await write(tx, token.id, { ...fields, expireTime: end.expire, familyLife }, [
    "family_time = coalesce(family_time, create_time)",
  ]);
}

async function write(tx: Tx, id: string, fields: Fields, more?: readonly string[]): Promise<void> {
  if (Object.keys(fields).length === 0) return;
  const { text, values } = updateToken(id, fields, more);
  await tx.query(text, values);
}

/** The end that a change sets; undefined: none. */
async function endOf(
  tx: Tx,
  token: Held,
  change: TokenChange,
  rule: { maxTtl: number },
  rights: Rights | undefined,
  asker: Asker,
): Promise<{ readonly expire: number | undefined } | undefined> {
  const parent = await parentOf(tx, token);
  if (rights !== undefined) return judgeUpdate(rights, asker, token, parent, change);
  if (change.expireTime === undefined && change.noExpiry !== true) return undefined;
  const { expireTime } = change;
  return { expire: expiry({ ...rule, expireTime, notBeforeTime: token.notBeforeTime }, asker.now, parent?.expireTime) };
}

const PRINCIPAL_FIELDS: Record<keyof PrincipalChange, string> = {
  displayName: "display_name",
  email: "email",
  owner: "owner",
  state: "state",
  annotations: "annotations",
};

const TENANT_FIELDS: Record<keyof TenantChange, string> = {
  displayName: "display_name",
  state: "state",
  annotations: "annotations",
};

/** `column = $n` for each field of the change that is in the table; values from `$first` on. */
function assignments(change: object, columns: Record<string, string>, first = 3) {
  const parts: string[] = [];
  const values: unknown[] = [];
  for (const [field, value] of Object.entries(change)) {
    const column = columns[field];
    if (column === undefined || value === undefined) continue;
    values.push(field === "annotations" ? JSON.stringify(value) : value);
    parts.push(`${column} = $${first + values.length - 1}`);
  }
  return { parts, values, text: parts.join(", ") };
}

function checkEtag(sent: string, current: string): void {
  if (sent !== "" && sent !== current) {
    throw new AppError("ETAG_MISMATCH", "etag: it was changed meanwhile; read it again", { retryAfterMs: 0 });
  }
}
