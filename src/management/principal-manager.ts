import { AppError, invalidField } from "../domain/errors.ts";
import { checkAnnotations, checkName, checkText } from "../domain/issue.ts";
import { checkTenantId, type Principal, principalType, type Tenant, type TenantState } from "../domain/principal.ts";
import type { PrincipalChange, TenantChange } from "../revocation/authority-store.ts";
import type { Authority, Effect } from "../revocation/effect.ts";
import { type Access, actorOf, guardOf, tenantOf } from "./access.ts";
import { checkType, foundNothing } from "./known.ts";
import type { PageStart, Part, TokenStore } from "./ports.ts";
import { actorsOf, again } from "./rerun.ts";

/** Principals and tenants, by the rules of their fields. */
export class PrincipalManager {
  readonly #store: TokenStore;
  readonly #authority: Authority;

  constructor(options: { store: TokenStore; authority: Authority }) {
    this.#store = options.store;
    this.#authority = options.authority;
  }

  async createPrincipal(
    access: Access,
    asked: Pick<Principal, "tenant" | "name" | "displayName" | "email" | "owner" | "annotations"> & {
      readonly state?: Principal["state"];
    },
  ): Promise<Principal> {
    principalType("principal.name", asked.name);
    const tenant = tenantOf(access, asked.tenant);
    const state = asked.state ?? "ACTIVE";
    checkState(state);
    const fields = checkPrincipalFields(asked);
    const principal = { ...asked, ...fields, tenant, state };
    const { value } = await this.#authority.change(
      again<Principal>((store, made) => store.createPrincipal(principal, guardOf(access), actorOf(access), made)),
      {
        noWait: false,
        deadline: access.deadline,
      },
    );
    return value;
  }

  async getPrincipal(access: Access, tenant: string, name: string): Promise<Principal> {
    principalType("name", name);
    const found = await this.#store.getPrincipal(tenantOf(access, tenant), name);
    if (found === undefined) throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal");
    return found;
  }

  async listPrincipals(
    access: Access,
    filter: { tenant: string; type?: string; state?: Principal["state"]; namePrefix?: string },
    limit: number,
    start?: PageStart,
  ): Promise<Part<Principal>> {
    checkType("type", filter.type);
    const tenant = tenantOf(access, filter.tenant);
    const part = await this.#store.listPrincipals({ ...filter, tenant }, limit, start, access);
    if (foundNothing(part, start)) await this.getTenant(tenant);
    return part;
  }

  async updatePrincipal(
    access: Access,
    of: { readonly tenant: string; readonly name: string; readonly etag: string },
    change: PrincipalChange,
    noWait: boolean,
  ): Promise<{ value: Principal; effect: Effect }> {
    principalType("principal.name", of.name);
    const tenant = tenantOf(access, of.tenant);
    if (change.state !== undefined) checkState(change.state);
    const checked = { ...change, ...checkPrincipalFields(change) };
    const actor = actorsOf(actorOf(access));
    return this.#authority.change(
      (store) => store.updatePrincipal(tenant, of.name, checked, of.etag, guardOf(access), actor()),
      { noWait, deadline: access.deadline },
    );
  }

  async deletePrincipal(
    access: Access,
    tenant: string,
    name: string,
    noWait: boolean,
  ): Promise<{ value: Principal; effect: Effect }> {
    principalType("name", name);
    const where = tenantOf(access, tenant);
    const actor = actorsOf(actorOf(access));
    return this.#authority.change((store) => store.deletePrincipal(where, name, actor()), {
      noWait,
      deadline: access.deadline,
    });
  }

  async createTenant(
    access: Access,
    asked: Pick<Tenant, "id" | "displayName" | "annotations"> & { readonly state?: TenantState },
  ): Promise<Tenant> {
    checkTenantId("tenant.id", asked.id);
    const displayName = checkName("tenant.display_name", asked.displayName, true);
    checkAnnotations("tenant.annotations", asked.annotations);
    const tenant = { ...asked, displayName, state: asked.state ?? "ACTIVE" };
    const { value } = await this.#authority.change(
      again<Tenant>((store, made) => store.createTenant(tenant, guardOf(access), actorOf(access), made)),
      {
        noWait: false,
        deadline: access.deadline,
      },
    );
    return value;
  }

  async getTenant(id: string): Promise<Tenant> {
    checkTenantId("id", id);
    const found = await this.#store.getTenant(id);
    if (found === undefined) throw new AppError("TENANT_NOT_FOUND", "no such tenant");
    return found;
  }

  listTenants(
    access: Access,
    filter: { state?: TenantState },
    limit: number,
    start?: PageStart,
  ): Promise<Part<Tenant>> {
    return this.#store.listTenants(filter, limit, start, access);
  }

  async updateTenant(
    access: Access,
    of: { readonly id: string; readonly etag: string },
    change: TenantChange,
    noWait: boolean,
  ): Promise<{ value: Tenant; effect: Effect }> {
    checkTenantId("tenant.id", of.id);
    const checked = { ...change };
    if (change.displayName !== undefined) {
      checked.displayName = checkName("tenant.display_name", change.displayName, true);
    }
    if (change.annotations !== undefined) checkAnnotations("tenant.annotations", change.annotations);
    const actor = actorsOf(actorOf(access));
    return this.#authority.change((store) => store.updateTenant(of.id, checked, of.etag, guardOf(access), actor()), {
      noWait,
      deadline: access.deadline,
    });
  }
}

/** Trims names and checks texts and owner, for the given fields only. */
function checkPrincipalFields(fields: PrincipalChange): PrincipalChange {
  const checked: { displayName?: string } = {};
  if (fields.displayName !== undefined) {
    checked.displayName = checkName("principal.display_name", fields.displayName, true);
  }
  if (fields.email !== undefined) checkText("principal.email", fields.email, 254);
  if (fields.owner !== undefined && fields.owner !== "") principalType("principal.owner", fields.owner);
  if (fields.annotations !== undefined) checkAnnotations("principal.annotations", fields.annotations);
  return checked;
}

function checkState(state: Principal["state"]): void {
  if (state === "DELETED") throw invalidField("principal.state", "must be ACTIVE or DISABLED: use DeletePrincipal");
}
