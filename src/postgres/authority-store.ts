import type { AuthorityStore } from "../revocation/authority-store.ts";
import { detachTenant } from "./attaching.ts";
import { cut, revokeChunk } from "./bulk-changes.ts";
import type { Args } from "./changes.ts";
import { committed } from "./committed.ts";
import { mint } from "./minting.ts";
import type { Postgres } from "./pool.ts";
import { createPrincipal, createTenant, deletePrincipal, updatePrincipal, updateTenant } from "./principal-changes.ts";
import { RevokeQueue } from "./revoke-queue.ts";
import { createRole, deleteRole, updateRole } from "./role-changes.ts";
import { rotate } from "./rotating.ts";
import { revokeFamily, updateToken } from "./token-changes.ts";

/** Every change of authority: one transaction with its audit row. A trigger takes its position in the log. */
export class PostgresAuthorityStore implements AuthorityStore {
  readonly #db: Postgres;
  readonly #revokes: RevokeQueue;

  constructor(db: Postgres) {
    this.#db = db;
    this.#revokes = new RevokeQueue(db);
  }

  createToken(...args: Args<"createToken">) {
    return this.#db.transaction((tx) => mint(tx, ...args));
  }

  rotateToken(...args: Args<"rotateToken">) {
    return committed(this.#db, (tx) => rotate(tx, ...args));
  }

  updateToken(...args: Args<"updateToken">) {
    return committed(this.#db, (tx) => updateToken(tx, ...args));
  }

  revokeToken(...[id, family, reason, actor]: Args<"revokeToken">) {
    if (!family) return this.#revokes.add({ id, reason, actor });
    return committed(this.#db, (tx) => revokeFamily(tx, id, reason, actor));
  }

  revokeChunk(...args: Args<"revokeChunk">) {
    return this.#db.transaction((tx) => revokeChunk(tx, ...args));
  }

  cut(...args: Args<"cut">) {
    return committed(this.#db, (tx) => cut(tx, ...args));
  }

  detachTenant(...args: Args<"detachTenant">) {
    return committed(this.#db, (tx) => detachTenant(tx, ...args));
  }

  createPrincipal(...args: Args<"createPrincipal">) {
    return committed(this.#db, (tx) => createPrincipal(tx, ...args));
  }

  updatePrincipal(...args: Args<"updatePrincipal">) {
    return committed(this.#db, (tx) => updatePrincipal(tx, ...args));
  }

  deletePrincipal(...args: Args<"deletePrincipal">) {
    return committed(this.#db, (tx) => deletePrincipal(tx, ...args));
  }

  createTenant(...args: Args<"createTenant">) {
    return committed(this.#db, (tx) => createTenant(tx, ...args));
  }

  updateTenant(...args: Args<"updateTenant">) {
    return committed(this.#db, (tx) => updateTenant(tx, ...args));
  }

  createRole(...args: Args<"createRole">) {
    return committed(this.#db, (tx) => createRole(tx, ...args));
  }

  updateRole(...args: Args<"updateRole">) {
    return committed(this.#db, (tx) => updateRole(tx, ...args));
  }

  deleteRole(...args: Args<"deleteRole">) {
    return committed(this.#db, (tx) => deleteRole(tx, ...args));
  }
}
