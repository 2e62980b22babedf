import { AppError } from "../domain/errors.ts";
import { checkText } from "../domain/issue.ts";
import type { Profile } from "../domain/profile.ts";
import { checkRoleName, checkRoleScopes, newRoleId, type Role } from "../domain/role.ts";
import type { RoleChange } from "../revocation/authority-store.ts";
import type { Authority, Effect } from "../revocation/effect.ts";
import { type Access, actorOf, guardOf, tenantOf } from "./access.ts";
import { foundNothing } from "./known.ts";
import type { PageStart, Part, TokenStore } from "./ports.ts";
import { actorsOf, again } from "./rerun.ts";

/** Roles, by the rules of their fields. */
export class RoleManager {
  readonly #store: TokenStore;
  readonly #authority: Authority;
  readonly #profiles: ReadonlyMap<string, Profile>;

  constructor(options: { store: TokenStore; authority: Authority; profiles: ReadonlyMap<string, Profile> }) {
    this.#store = options.store;
    this.#authority = options.authority;
    this.#profiles = options.profiles;
  }

  async create(
    access: Access,
    asked: Pick<Role, "tenant" | "name" | "description" | "scopes" | "administrative">,
  ): Promise<Role> {
    checkRoleName("role.name", asked.name);
    const tenant = tenantOf(access, asked.tenant);
    checkText("role.description", asked.description, 500);
    const scopes = [...new Set(asked.scopes)];
    this.#checkScopes(access, asked.administrative, scopes);
    const role = { ...asked, id: newRoleId(), tenant, scopes };
    const { value } = await this.#authority.change(
      again<Role>((store, made) => store.createRole(role, guardOf(access), actorOf(access), made)),
      { noWait: false, deadline: access.deadline },
    );
    return value;
  }

  async get(access: Access, tenant: string, name: string): Promise<Role> {
    checkRoleName("name", name);
    const found = await this.#store.getRole(tenantOf(access, tenant), name);
    if (found === undefined) throw new AppError("ROLE_NOT_FOUND", "no such role");
    return found;
  }

  async list(access: Access, asked: string, limit: number, start?: PageStart): Promise<Part<Role>> {
    const tenant = tenantOf(access, asked);
    const part = await this.#store.listRoles(tenant, limit, start, access);
    if (foundNothing(part, start) && (await this.#store.getTenant(tenant)) === undefined) {
      throw new AppError("TENANT_NOT_FOUND", "no such tenant");
    }
    return part;
  }

  async update(
    access: Access,
    of: { readonly tenant: string; readonly name: string; readonly etag: string },
    change: RoleChange,
    noWait: boolean,
  ): Promise<{ value: Role; effect: Effect }> {
    checkRoleName("role.name", of.name);
    const tenant = tenantOf(access, of.tenant);
    if (change.description !== undefined) checkText("role.description", change.description, 500);
    const scopes = change.scopes && [...new Set(change.scopes)];
    const checked = { ...change, ...(scopes !== undefined && { scopes }) };
    const check = ({ administrative }: Role) => {
      if (scopes !== undefined) this.#checkScopes(access, administrative, scopes);
    };
    return this.#authority.change(
      (store) => store.updateRole(tenant, of.name, checked, of.etag, check, guardOf(access), actorOf(access)),
      { noWait, deadline: access.deadline },
    );
  }

  async delete(
    access: Access,
    tenant: string,
    name: string,
    force: boolean,
    noWait: boolean,
  ): Promise<{ value: Role; effect: Effect }> {
    checkRoleName("name", name);
    const where = tenantOf(access, tenant);
    const actor = actorsOf(actorOf(access));
    return this.#authority.change((store) => store.deleteRole(where, name, force, actor()), {
      noWait,
      deadline: access.deadline,
    });
  }

  /** The transaction reads the caller again: it commits only if the caller still has the scopes that count here. */
  #checkScopes({ caller }: Access, administrative: boolean, scopes: readonly string[]): void {
    checkRoleScopes(caller, administrative, scopes, this.#profiles.values());
  }
}
