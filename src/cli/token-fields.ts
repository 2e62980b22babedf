import type { Command } from "commander";
import { type Token, TokenSchema, TokenState } from "../gen/sallyport/v1/token_admin_pb.ts";
import { annotation, repeatable } from "./flags.ts";
import { annotationsOf, fromNow, nameOf, record, table, timeAndDistance } from "./output.ts";

/*
 * The fields of a token on the command line: the flags that set them, and how they are shown.
 */

/** The fields that `tokens create` sets and `tokens update` changes. */
export interface FieldOptions {
  readonly displayName?: string;
  readonly description?: string;
  readonly scope?: string[];
  readonly role?: string[];
  readonly tenants?: string[];
  readonly audience?: string[];
  readonly allowedCidr?: string[];
  readonly annotation?: Record<string, string>;
}

export function fieldFlags(command: Command): Command {
  return command
    .option("--display-name <name>", "a name for people; some profiles require one")
    .option("--description <text>", "free text")
    .option("--scope <scope>", "a scope of the token; repeatable", repeatable)
    .option("--role <name>", "a role of its tenant; the token has its scopes; repeatable", repeatable)
    .option("--tenants <tenant>", "a further tenant in which it counts, beside its own; repeatable", repeatable)
    .option("--audience <audience>", "an audience that accepts it, by default any; repeatable", repeatable)
    .option("--allowed-cidr <cidr>", "a network from which it is accepted, by default any; repeatable", repeatable)
    .option("--annotation <key=value>", "a fact for programs; repeatable", annotation);
}

/** The fields as the API names them; undefined where no flag was given. */
export function fieldsOf(options: FieldOptions) {
  return {
    displayName: options.displayName,
    description: options.description,
    scopes: options.scope,
    roles: options.role,
    tenants: options.tenants,
    audiences: options.audience,
    allowedCidrs: options.allowedCidr,
    annotations: options.annotation,
  };
}

/** The fields by their paths in an update mask. */
export function pathsOf(fields: ReturnType<typeof fieldsOf>): Record<string, unknown> {
  const names = Object.keys(fields) as (keyof typeof fields)[];
  return Object.fromEntries(names.map((name) => [TokenSchema.field[name].name, fields[name]]));
}

/** The paths of the fields that can be empty. */
export const CLEARABLE = Object.keys(pathsOf(fieldsOf({})));

/** Tokens for people, one a line: the hint, the state, the remaining lifetime. */
export function tokenTable(tokens: readonly Token[], now: number): string {
  return table(
    ["ID", "HINT", "PRINCIPAL", "NAME", "STATE", "EXPIRES", "LAST USED", "USES"],
    tokens.map((token) => [
      token.id,
      token.hint,
      token.principal,
      token.displayName,
      nameOf(TokenState, token.state),
      token.expireTime === undefined ? "never" : fromNow(token.expireTime, now),
      token.lastUseTime === undefined ? "never" : fromNow(token.lastUseTime, now),
      String(token.useCount),
    ]),
  );
}

/** The tokens of others that are attached to a tenant, as that tenant sees them. */
export function attachedTable(tokens: readonly Token[], now: number): string {
  return table(
    ["ID", "HINT", "TENANT", "PRINCIPAL", "CREATED", "EXPIRES", "LAST USED"],
    tokens.map((token) => [
      token.id,
      token.hint,
      token.tenant,
      token.principal,
      fromNow(token.createTime, now),
      token.expireTime === undefined ? "never" : fromNow(token.expireTime, now),
      token.lastUseTime === undefined ? "never" : fromNow(token.lastUseTime, now),
    ]),
  );
}

/** One token for people, with all its known fields. */
export function tokenRecord(token: Token | undefined, now: number): string {
  if (token === undefined) return "";
  return record([
    ["id", token.id],
    ["hint", token.hint],
    ["state", nameOf(TokenState, token.state)],
    ["tenant", token.tenant],
    ["further tenants", token.tenants.join(" ")],
    ["profile", token.profile],
    ["format", token.format],
    ["principal", token.principal],
    ["name", token.displayName],
    ["description", token.description],
    ["scopes", token.scopes.join(" ")],
    ["roles", token.roles.join(" ")],
    ["effective scopes", effectiveScopes(token)],
    ["audiences", token.audiences.join(" ")],
    ["allowed cidrs", token.allowedCidrs.join(" ")],
    ["annotations", annotationsOf(token.annotations)],
    ["created", timeAndDistance(token.createTime, now)],
    ["created by", token.createdBy],
    ["not before", timeAndDistance(token.notBeforeTime, now)],
    ["expires", timeAndDistance(token.expireTime, now) || "never"],
    ["last used", [timeAndDistance(token.lastUseTime, now), token.lastUseAddress].filter(Boolean).join(" from ")],
    ["uses", token.useCount === 0n ? "" : String(token.useCount)],
    ["disabled", token.disabled ? "yes" : ""],
    ["revoked", timeAndDistance(token.revokeTime, now)],
    ["revoked by", token.revokedBy],
    ["reason", token.revokeReason],
    ["parent", token.parent],
    ["rotated from", token.rotatedFrom],
    ["rotated to", token.rotatedTo],
    ["etag", token.etag],
  ]);
}

/** Empty if they are those of the token itself: then its roles add nothing, and its parent takes nothing away. */
function effectiveScopes({ scopes, effectiveScopes: effective }: Token): string {
  const own = new Set(scopes);
  return effective.length === own.size && effective.every((scope) => own.has(scope)) ? "" : effective.join(" ");
}
