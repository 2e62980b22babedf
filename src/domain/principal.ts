import { invalidField } from "./errors.ts";
import { holdsTokenString } from "./token-string.ts";

/** The kinds of principal that a token can speak for. */
export type PrincipalType = "user" | "bot" | "service" | "org";
export type PrincipalState = "ACTIVE" | "DISABLED" | "DELETED";
export type TenantState = "ACTIVE" | "SUSPENDED";

export const PRINCIPAL_TYPES: readonly PrincipalType[] = ["user", "bot", "service", "org"];

/**
 * The principal that a token speaks for, inside a tenant. Times are milliseconds since 1970, by the database's clock.
 */
export interface Principal {
  readonly tenant: string;
  /** `type:id`. */
  readonly name: string;
  readonly displayName: string;
  readonly email: string;
  readonly owner: string;
  readonly state: PrincipalState;
  readonly createTime: number;
  readonly annotations: Readonly<Record<string, string>>;
  readonly etag: string;
}

/** The organization that owns principals and tokens. Of other tenants it has only the tokens that are attached to it. */
export interface Tenant {
  readonly id: string;
  readonly displayName: string;
  readonly state: TenantState;
  readonly createTime: number;
  readonly annotations: Readonly<Record<string, string>>;
  readonly etag: string;
}

const PRINCIPAL = /^(user|bot|service|org):[A-Za-z0-9._@/+-]{1,128}$/;
const TENANT = /^[a-z][a-z0-9-]{0,62}$/;

/** Returns the type of a well-formed principal name; INVALID_FIELD for anything else. */
export function principalType(field: string, name: string): PrincipalType {
  const match = PRINCIPAL.exec(name);
  if (match === null) {
    throw invalidField(
      field,
      "must be type:id, the type one of user, bot, service, org, the id 1 to 128 of A-Z a-z 0-9 . _ @ / + -",
    );
  }
  if (holdsTokenString(name)) throw invalidField(field, "must not hold a token string or a JWT");
  return match[1] as PrincipalType;
}

export function isTenantId(id: string): boolean {
  return TENANT.test(id);
}

/** INVALID_FIELD unless it is a tenant id. */
export function checkTenantId(field: string, id: string): void {
  if (!isTenantId(id)) throw invalidField(field, "must be a lower-case letter, then up to 62 of a-z 0-9 -");
}
