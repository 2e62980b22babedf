import { type Carrier, keyHeaders } from "./policy.ts";

/** The credential of a request. `malformed`: the request is refused with 400, whatever the credential holds. */
export type Credential =
  | { readonly kind: "none" }
  | { readonly kind: "one"; readonly tokenString: string }
  | { readonly kind: "malformed"; readonly why: string };

const NONE: Credential = { kind: "none" };
const LONGEST = 8_192;
/** More values than any upstream needs. */
const MAX_VALUES = 16;

/**
 * Returns the one credential of a request, from the raw values of all carriers of the policy: `authorization` and the
 * values of the headers that hold nothing but a token string. More than one credential
 * is malformed, also if they are equal or share one value (Envoy joins repeated headers with a comma). A carrier beyond
 * 8 KiB is malformed, too. A header that the policy does not name as a carrier belongs to the upstream and is no
 * credential (RFC 6750 §3.1).
 */
export function credentialOf(
  carriers: readonly Carrier[],
  authorization: readonly string[],
  keyValues: readonly string[],
): Credential {
  if (authorization.length + keyValues.length > MAX_VALUES) return malformed("more than one credential");
  const values = authorization.filter((value) => value !== "");
  const bears = values.some((value) => mayBear(carriers, value));
  const keys = keyHeaders(carriers).length > 0 ? keyValues.filter((value) => value !== "") : [];
  if (!bears && keys.length === 0) return NONE;
  if ((bears ? values.length : 0) + keys.length > 1) return malformed("more than one credential");
  const [value = ""] = bears ? values : keys;
  if (value.length > LONGEST) return malformed("a credential of more than 8 KiB");
  if (value.includes(",")) return malformed("more than one credential");
  return bears ? fromAuthorization(carriers, value) : one(value.trim());
}

/** The one credential of a request, whose header values `values` gives by name. */
export function credentialIn(carriers: readonly Carrier[], values: (name: string) => readonly string[]): Credential {
  return credentialOf(carriers, values("authorization"), keyHeaders(carriers).flatMap(values));
}

/** True if an `authorization` value concerns us: it holds one of the policy's schemes, or it is malformed. */
function mayBear(carriers: readonly Carrier[], value: string): boolean {
  if (!carriers.includes("bearer") && !carriers.includes("basic")) return false;
  const ours = (part: string) => {
    const found = schemeOf(part)?.toLowerCase();
    return (found === "bearer" || found === "basic") && carriers.includes(found);
  };
  return schemeOf(value) === undefined || value.split(",").some(ours);
}

const SCHEME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+(?=[ \t]|$)/;

/** The scheme that a value begins with; undefined if it begins with none. */
function schemeOf(value: string): string | undefined {
  return SCHEME.exec(value.trim())?.[0];
}

function fromAuthorization(carriers: readonly Carrier[], value: string): Credential {
  const trimmed = value.trim();
  const scheme = schemeOf(trimmed);
  if (scheme === undefined) return malformed("a broken authorization header");
  let at = scheme.length;
  while (trimmed[at] === " " || trimmed[at] === "\t") at++;
  const rest = trimmed.slice(at);
  if (scheme.toLowerCase() === "basic" && carriers.includes("basic")) return fromBasic(rest);
  if (rest === "" || /\s/.test(rest)) return malformed("a broken Bearer credential");
  return one(rest);
}

/** As git sends it: the password is the token string, and the user name is ignored. */
function fromBasic(rest: string): Credential {
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(rest)) return malformed("a broken Basic credential");
  const text = Buffer.from(rest, "base64").toString("latin1");
  const colon = text.indexOf(":");
  if (colon < 0) return malformed("a broken Basic credential");
  return one(text.slice(colon + 1));
}

function one(tokenString: string): Credential {
  return { kind: "one", tokenString };
}

function malformed(why: string): Credential {
  return { kind: "malformed", why };
}
