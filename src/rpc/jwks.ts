import type { Keyring } from "../domain/keyring.ts";

/** The JWK set, as a page that any listener can serve. It holds public keys only. */
export interface JwksPage {
  readonly type: string;
  readonly body: string;
  readonly cache: string;
}

const NO_KEYS = '{"keys":[]}';

/** The page with the keys of this moment. Verifiers may keep it for five minutes, so the operator makes a key current only later. */
export function jwksPage({ signing }: Pick<Keyring, "signing">): JwksPage {
  return { type: "application/jwk-set+json", body: signing?.jwks ?? NO_KEYS, cache: "public, max-age=300" };
}
