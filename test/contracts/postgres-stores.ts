import { randomBytes } from "node:crypto";
import type { Clock } from "../../src/domain/clock.ts";
import { AppError } from "../../src/domain/errors.ts";
import { newRoleId } from "../../src/domain/role.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { PostgresRevocationLog } from "../../src/postgres/revocation-log.ts";
import { PostgresTokenReader } from "../../src/postgres/token-reader.ts";
import { migrated } from "../postgres/migrated.ts";
import { PARENT_PRINCIPAL, PRINCIPAL, ROLE, SCOPES, type Stores, TENANT, type TokenName } from "./stores.ts";

const ACTOR = { actor: "test", address: "", requestId: "" };
const DAY = { ttl: 86_400_000, maxTtl: 86_400_000 };
const UNLIMITED = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };
const clock: Clock = { mono: () => performance.now(), wall: () => Date.now() };

/** The real adapters on a database of their own. */
export async function postgresStores(): Promise<Stores> {
  const { url, drop } = await migrated();
  const onTrouble = () => {};
  const db = new Postgres({ url, maxConnections: 3, applicationName: "sallyport-test", onTrouble });
  const authority = new PostgresAuthorityStore(db);
  const log = new PostgresRevocationLog({ url, connections: 2, onTrouble });
  const other = new PostgresRevocationLog({ url, connections: 1, onTrouble });
  const reader = new PostgresTokenReader({ url, connections: 1, clock, onTrouble });
  await authority.createTenant(
    { id: TENANT, displayName: "", state: "ACTIVE", annotations: {} },
    { callerScopes: [] },
    ACTOR,
  );
  const { value: role } = await authority.createRole(
    { id: newRoleId(), tenant: TENANT, name: ROLE, description: "", scopes: SCOPES, administrative: false },
    { callerScopes: [] },
    ACTOR,
  );
  if (role instanceof AppError) throw role;
  const make = async (principal: string, mintedBy?: string, roles: readonly string[] = []) => {
    const token = {
      ...NOTHING_GIVEN,
      id: `tok_${randomBytes(11).toString("hex")}`,
      digest: randomBytes(32).toString("latin1"),
      kid: "1",
      hint: "sp_bot_1abcdefgh",
      tenant: TENANT,
      profile: "bot",
      principal,
      scopes: roles.length === 0 ? SCOPES : [],
      roles,
      createdBy: "test",
    };
    const guard = { callerTokenId: mintedBy, callerScopes: [], child: mintedBy !== undefined, mustExist: false };
    await authority.createToken(token, DAY, guard, UNLIMITED, ACTOR);
    return { id: token.id, digest: token.digest };
  };
  const parent = await make(PARENT_PRINCIPAL);
  const holder = await make(PARENT_PRINCIPAL, undefined, [ROLE]);
  const tokens: Record<TokenName, { id: string; digest: string }> = {
    a: await make(PRINCIPAL),
    b: await make(PRINCIPAL),
    parent,
    child: await make(PARENT_PRINCIPAL, parent.id),
    holder,
    heir: await make(PARENT_PRINCIPAL, holder.id),
  };
  // An epoch that nobody has proven, as the double begins.
  await log.draw((await log.readEpoch()).epoch);
  const close = async () => {
    await Promise.all([log.close(), other.close(), reader.close(), db.close()]);
    await drop();
  };
  return { reader, log, other, authority, tokens, role: role.id, close };
}
