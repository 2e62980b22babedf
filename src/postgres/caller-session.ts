import type { SessionCaller } from "../domain/audit-event.ts";
import { isAdministrator } from "../domain/caller.ts";
import type { CallerGuard } from "../revocation/authority-store.ts";
import type { Tx } from "./pool.ts";

/*
 * The rows that a session rests on, in place of a token's row: its principal and tenants, and the roles that its groups
 * name. `caller-guard.ts` locks them and asks here.
 */

interface Place {
  readonly tenant: string;
  readonly name: string;
}

/** The session's principal in each tenant that can end the session. */
export function placesOf(session: SessionCaller | undefined): readonly Place[] {
  if (session === undefined) return [];
  return [session.tenant, ...(session.alsoIn ?? [])].map((tenant) => ({ tenant, name: session.name }));
}

/** The session's principal in those of its tenants in which a change gives rights. `tenants`: those of the token. */
export function furtherPlaces(session: SessionCaller | undefined, tenants: readonly string[]): readonly Place[] {
  if (session === undefined) return [];
  return tenants.filter((one) => session.tenants?.includes(one)).map((tenant) => ({ tenant, name: session.name }));
}

/** Those of the token's tenants in which the session is over: it ends nothing else, and gives nothing there. */
export async function lostTenants(
  tx: Tx,
  session: SessionCaller | undefined,
  tenants: readonly string[],
): Promise<ReadonlySet<string>> {
  const places = furtherPlaces(session, tenants);
  const lost = await inactivePlaces(tx, places);
  return new Set(places.filter((place) => lost.has(keyOf(place))).map(({ tenant }) => tenant));
}

/** SQL for the ids of a session's roles; `namedBy` has the values. */
export function rolesNamed(tenant: string, names: string): string {
  return `select id from sallyport.roles where tenant = ${tenant} and name = any(${names}::text[]) and state = 'ACTIVE'`;
}

export function namedBy(session: SessionCaller | undefined): readonly [tenant: string, names: readonly string[]] {
  return [session?.tenant ?? "", session?.roles?.names ?? []];
}

/**
 * Those of the sessions whose principal or tenant is not active, or whose roles give less than when the call was
 * admitted. A principal without a row is active. `counts`: true for the id of a role that counts.
 */
export async function endedSessions(
  tx: Tx,
  sessions: readonly SessionCaller[],
  counts: (roleId: string) => boolean = () => true,
): Promise<ReadonlySet<SessionCaller>> {
  const inactive = await inactivePlaces(tx, sessions.flatMap(placesOf));
  const given = await scopesByRole(tx, sessions, counts);
  const ended = sessions.filter((session) => {
    const { tenant, roles } = session;
    if (placesOf(session).some((place) => inactive.has(keyOf(place)))) return true;
    const now = roles?.names.flatMap((name) => given.get(keyOf({ tenant, name })) ?? []);
    return roles?.scopes.every((scope) => now?.includes(scope)) === false;
  });
  return new Set(ended);
}

async function inactivePlaces(tx: Tx, places: readonly Place[]): Promise<ReadonlySet<string>> {
  if (places.length === 0) return new Set();
  const rows = await tx.query<Place>(
    `select s.tenant, s.name from (select distinct * from unnest($1::text[], $2::text[])) s (tenant, name)
     where exists (select from sallyport.principals p
         where p.tenant = s.tenant and p.name = s.name and p.state <> 'ACTIVE')
       or exists (select from sallyport.tenants o where o.id = s.tenant and o.state <> 'ACTIVE')`,
    [places.map(({ tenant }) => tenant), places.map(({ name }) => name)],
  );
  return new Set(rows.map(keyOf));
}

/** The scopes of the roles with which the sessions were admitted, by tenant and name. */
async function scopesByRole(
  tx: Tx,
  sessions: readonly SessionCaller[],
  counts: (roleId: string) => boolean,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const named = sessions.flatMap(({ tenant, roles }) =>
    roles === undefined || roles.scopes.length === 0 ? [] : roles.names.map((name) => ({ tenant, name })),
  );
  if (named.length === 0) return new Map();
  const rows = await tx.query<Place & { id: string; scopes: string[] }>(
    `select r.id, r.tenant, r.name, r.scopes
     from (select distinct * from unnest($1::text[], $2::text[])) s (tenant, name)
       join sallyport.roles r using (tenant, name) where r.state = 'ACTIVE'`,
    [named.map(({ tenant }) => tenant), named.map(({ name }) => name)],
  );
  return new Map(rows.filter(({ id }) => counts(id)).map((row) => [keyOf(row), row.scopes]));
}

function keyOf({ tenant, name }: Place): string {
  return `${tenant} ${name}`;
}

/**
 * The names of the session's roles, which it may not widen. None for an administrator's that is one without them: it
 * grants what it likes.
 */
export function rolesNotToWiden({ callerPrincipal, callerScopes }: CallerGuard): readonly string[] {
  const { names = [], scopes = [] } = callerPrincipal?.roles ?? {};
  return isAdministrator({ scopes: callerScopes.filter((scope) => !scopes.includes(scope)) }) ? [] : names;
}
