import type { PrincipalState, TenantState } from "../domain/principal.ts";
import type { CallerStates } from "../management/ports.ts";
import type { Postgres } from "./pool.ts";
import { type Followed, ProvenReads, proving } from "./proven-reads.ts";

const STATES = {
  name: "sallyport-caller-states",
  text: proving(
    `select (select state from sallyport.tenants where id = $1) as tenant,
       (select state from sallyport.principals where tenant = $1 and name = $2) as principal`,
  ),
};

/** The states that end a session, in one statement on the primary. */
export class PostgresCallerStates implements CallerStates {
  readonly #proven: ProvenReads;

  constructor(db: Postgres, followed: Followed) {
    this.#proven = new ProvenReads(db, followed, true);
  }

  async callerStates(tenant: string, principal: string) {
    type States = { tenant: TenantState | null; principal: PrincipalState | null };
    const { rows } = await this.#proven.rows<States>(STATES, [tenant, principal]);
    return { tenant: rows[0]?.tenant ?? undefined, principal: rows[0]?.principal ?? undefined };
  }
}
