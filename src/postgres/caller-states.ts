import { AppError } from "../domain/errors.ts";
import type { CallerStates } from "../management/ports.ts";
import type { Postgres } from "./pool.ts";
import { type Followed, ProvenReads, proving } from "./proven-reads.ts";

const STATES = {
  name: "sallyport-caller-states",
  text: proving(
    `select array(select id from sallyport.tenants where id = any($1) and state <> 'ACTIVE') as "inactiveTenants",
       array(select tenant from sallyport.principals
         where tenant = any($1) and name = $2 and state <> 'ACTIVE') as "inactivePrincipals",
       array(select distinct s from sallyport.roles r, unnest(r.scopes) s
         where r.tenant = $3 and r.name = any($4) and r.state = 'ACTIVE' order by s) as "roleScopes"`,
  ),
};

type States = Awaited<ReturnType<CallerStates["callerStates"]>>;

/** The rows that end a session or give it rights, in one statement on the primary. */
export class PostgresCallerStates implements CallerStates {
  readonly #proven: ProvenReads;

  constructor(db: Postgres, followed: Followed) {
    this.#proven = new ProvenReads(db, followed, true);
  }

  async callerStates(...[{ tenant, roles }, tenants, principal]: Parameters<CallerStates["callerStates"]>) {
    const { rows } = await this.#proven.rows<States>(STATES, [tenants, principal, tenant, roles]);
    const found = rows[0];
    if (found === undefined) throw new AppError("INTERNAL", "the states of a session's tenants are missing");
    return found;
  }
}
