import { AppError } from "../domain/errors.ts";
import type { PrincipalState, TenantState } from "../domain/principal.ts";
import type { CallerStates } from "../management/ports.ts";
import type { Postgres } from "./pool.ts";
import { type Followed, ProvenReads, proving } from "./proven-reads.ts";

const STATES = {
  name: "sallyport-caller-states",
  text: proving(
    `select array(select state from sallyport.tenants where id = any($1)) as tenants,
       array(select state from sallyport.principals where tenant = any($1) and name = $2) as principals`,
  ),
};

/** The states that end a session, in one statement on the primary. */
export class PostgresCallerStates implements CallerStates {
  readonly #proven: ProvenReads;

  constructor(db: Postgres, followed: Followed) {
    this.#proven = new ProvenReads(db, followed, true);
  }

  async callerStates(tenants: readonly string[], principal: string) {
    type States = { tenants: readonly TenantState[]; principals: readonly PrincipalState[] };
    const { rows } = await this.#proven.rows<States>(STATES, [tenants, principal]);
    const found = rows[0];
    if (found === undefined) throw new AppError("INTERNAL", "the states of a session's tenants are missing");
    return found;
  }
}
