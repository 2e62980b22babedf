// RFC 6749 §3.3: %x21 / %x23-5B / %x5D-7E.
const SCOPE = /^[\x21\x23-\x5b\x5d-\x7e]{1,128}$/;

/** True if the text can be a scope: 1 to 128 visible ASCII characters without `"` and `\` (RFC 6749 §3.3). */
export function isScope(text: string): boolean {
  return SCOPE.test(text);
}

/** True if a granted scope covers an exact one: it is equal, or it ends in `.*` or `:*` and is its beginning. */
export function covers(granted: string, required: string): boolean {
  if (granted === required) return true;
  if (!granted.endsWith(".*") && !granted.endsWith(":*")) return false;
  return required.length >= granted.length && required.startsWith(granted.slice(0, -1));
}

/** True if one of the granted scopes covers the exact one. */
export function coversAny(granted: readonly string[], required: string): boolean {
  for (const scope of granted) if (covers(scope, required)) return true;
  return false;
}

/** The required scopes that the granted ones do not cover. */
export function missingScopes(granted: readonly string[], required: readonly string[]): string[] {
  return required.filter((scope) => !coversAny(granted, scope));
}
