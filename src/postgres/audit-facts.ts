import type { Token } from "../domain/token.ts";
import type { TokenChange } from "../revocation/authority-store.ts";

type Given = Pick<
  Token,
  "profile" | "hint" | "kid" | "displayName" | "scopes" | "roles" | "tenants" | "audiences" | "allowedCidrs"
>;
type Bounds = { readonly expire: number | undefined; readonly notBefore: number | undefined; readonly parent: string };

/** The rights of a new token for its audit row. Absent ones are omitted. */
export function givenTo(of: Given, { expire, notBefore, parent }: Bounds): Record<string, string> {
  const metadata = {
    profile: of.profile,
    hint: of.hint,
    kid: of.kid,
    display_name: of.displayName,
    scopes: of.scopes.join(" "),
    roles: of.roles.join(" "),
    tenants: of.tenants.join(" "),
    audiences: of.audiences.join(" "),
    allowed_cidrs: of.allowedCidrs.join(" "),
    not_before_time: notBefore === undefined ? "" : isoTime(notBefore),
    expire_time: endText(expire),
    parent,
  };
  return Object.fromEntries(Object.entries(metadata).filter(([, value]) => value !== ""));
}

/**
 * The values that a change has set, for its audit row. Description and annotations are long and decide nothing, so they
 * are omitted.
 */
export function setTo(change: TokenChange, now: Token): Record<string, string> {
  return {
    ...(change.displayName !== undefined && { display_name: now.displayName }),
    ...(change.scopes !== undefined && { scopes: now.scopes.join(" ") }),
    ...(change.roles !== undefined && { roles: now.roles.join(" ") }),
    ...(change.tenants !== undefined && { tenants: now.tenants.join(" ") }),
    ...(change.audiences !== undefined && { audiences: now.audiences.join(" ") }),
    ...(change.allowedCidrs !== undefined && { allowed_cidrs: now.allowedCidrs.join(" ") }),
    ...(change.disabled !== undefined && { disabled: String(now.disabled) }),
    ...((change.expireTime ?? change.noExpiry) !== undefined && { expire_time: endText(now.expireTime) }),
  };
}

/** The fields of a change, by the names that the API gives them. */
export function fieldsOf(change: object): string {
  const names = Object.keys(change).map((name) =>
    name === "noExpiry" ? "expire_time" : name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
  );
  return names.sort().join(" ");
}

function endText(expire: number | undefined): string {
  return expire === undefined ? "never" : isoTime(expire);
}

function isoTime(time: number): string {
  return new Date(time).toISOString();
}
