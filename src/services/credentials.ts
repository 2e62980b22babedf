import type { Carrier } from "./policy.ts";

/** What a request brings. `malformed`: a request that must be refused as such (400), whatever it holds. */
export type Credential =
  | { readonly kind: "none" }
  | { readonly kind: "one"; readonly tokenString: string }
  | { readonly kind: "malformed"; readonly why: string };

const NONE: Credential = { kind: "none" };
const LONGEST = 8_192;

/**
 * The one credential of a request, counted over the raw values of all carriers of the policy. More than one, also equal
 * ones, also two in one value (a comma: Envoy joins repeated headers so), is malformed, and so is a carrier beyond
 * 8 KiB. A scheme that the policy does not name is no credential (RFC 6750, section 3.1).
 */
export function credentialOf(
  carriers: readonly Carrier[],
  authorization: readonly string[],
  apiKey: readonly string[],
): Credential {
  const values = authorization.filter((value) => value !== "");
  const keys = carriers.includes("x-api-key") ? apiKey.filter((value) => value !== "") : [];
  if (values.length === 0 && keys.length === 0) return NONE;
  if (values.length + keys.length > 1) return malformed("more than one credential");
  const [value = ""] = values.length > 0 ? values : keys;
  if (value.length > LONGEST) return malformed("a credential of more than 8 KiB");
  if (value.includes(",")) return malformed("more than one credential");
  return values.length > 0 ? fromAuthorization(carriers, value) : one(value.trim());
}

function fromAuthorization(carriers: readonly Carrier[], value: string): Credential {
  const match = /^\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]+(.*?))?\s*$/s.exec(value);
  if (match === null) return malformed("a broken authorization header");
  const scheme = match[1]!.toLowerCase();
  const rest = match[2] ?? "";
  if (scheme === "bearer" && carriers.includes("bearer")) {
    if (rest === "" || /\s/.test(rest)) return malformed("a broken Bearer credential");
    return one(rest);
  }
  if (scheme === "basic" && carriers.includes("basic")) return fromBasic(rest);
  return NONE;
}

/** As git sends it: the password is the token string, the user's name is not looked at. */
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
