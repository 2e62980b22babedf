import { randomBytes } from "node:crypto";
import { base62 } from "./base62.ts";
import type { Caller } from "./caller.ts";
import { AppError, invalidField } from "./errors.ts";
import { checkGrants, checkScopeForms } from "./issue.ts";
import type { Profile } from "./profile.ts";
import { covers } from "./scope.ts";

/** A deleted role keeps its row, because tokens can still name it. It gives nothing. */
export type RoleState = "ACTIVE" | "DELETED";

/** A named list of scopes, inside a tenant. Times are milliseconds since 1970, by the database's clock. */
export interface Role {
  readonly id: string;
  readonly tenant: string;
  readonly name: string;
  readonly description: string;
  readonly scopes: readonly string[];
  /** True if it may hold administrative scopes. Then only tokens of an administrative profile hold it. */
  readonly administrative: boolean;
  readonly state: RoleState;
  readonly createTime: number;
  readonly etag: string;
}

/** The most roles of one token. */
const MOST = 16;
const NAME = /^[a-z][a-z0-9-]{0,62}$/;

export function newRoleId(): string {
  return `rol_${base62(randomBytes(17), 22)}`;
}

/** INVALID_FIELD unless it is a role's name. */
export function checkRoleName(field: string, name: string): void {
  if (!NAME.test(name)) throw invalidField(field, "must be a lower-case letter, then up to 62 of a-z 0-9 -");
}

/** INVALID_FIELD unless they can be the roles of a token. */
export function checkRoleNames(field: string, names: readonly string[]): void {
  if (names.length > MOST) throw invalidField(field, `must have at most ${MOST} entries`);
  for (const name of names) checkRoleName(field, name);
}

/**
 * The rules of a role's scopes: the caller holds what it gives, only an administrative role holds administrative scopes,
 * and none covers a scope with a ceiling, because a ceiling clamps a token once, when it is issued.
 */
export function checkRoleScopes(
  caller: Caller,
  administrative: boolean,
  scopes: readonly string[],
  profiles: Iterable<Profile>,
): void {
  checkScopeForms(scopes);
  checkGrants({ administrative, what: "a role that is not administrative" }, caller, scopes);
  for (const profile of profiles) {
    if (coversCeiling(profile, scopes)) {
      throw invalidField("role.scopes", `must not cover a scope that limits the life of ${profile.name} tokens`);
    }
  }
}

/** The rules of giving roles to a token of a profile. RIGHTS_EXCEEDED if the caller may not. */
export function checkRoles(profile: Profile, caller: Caller, roles: readonly Role[]): void {
  for (const { administrative, scopes } of roles) {
    if (administrative && !profile.administrative) {
      throw exceeded(`roles: tokens of profile ${profile.name} cannot hold administrative roles`);
    }
    if (coversCeiling(profile, scopes)) {
      throw exceeded(`roles: a scope of the role limits the life of ${profile.name} tokens; grant the scope itself`);
    }
    checkGrants({ administrative, what: "a role that is not administrative" }, caller, scopes);
  }
}

function coversCeiling({ scopeCeilings }: Profile, scopes: readonly string[]): boolean {
  return Object.keys(scopeCeilings).some((scope) => scopes.some((granted) => covers(granted, scope)));
}

function exceeded(message: string): AppError {
  return new AppError("RIGHTS_EXCEEDED", message);
}
