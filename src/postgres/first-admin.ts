import { Keyring } from "../domain/keyring.ts";
import { BUILT_IN_PROFILES } from "../domain/profile.ts";
import type { Secret } from "../domain/secret.ts";
import { NOTHING_GIVEN } from "../domain/token.ts";
import { mintTokenString, newTokenId } from "../domain/token-string.ts";
import { makeFirstAdmin } from "./boot.ts";
import { Postgres } from "./pool.ts";

export interface FirstAdminOptions {
  readonly url: string;
  /** The connection goes through a pooler. */
  readonly shared?: boolean;
  readonly keyring: { readonly current: string; readonly keys: Readonly<Record<string, string>> };
  /** Milliseconds; undefined for no expiry. */
  readonly ttlMs: number | undefined;
  readonly again: boolean;
  /** Stores the string before the token exists. If that fails, no token is made. */
  readonly keep: (tokenString: Secret) => void;
}

/**
 * Makes the first administrator: one `adm` token with `sallyport.operator` for `user:admin` of tenant `default`. Does
 * nothing and returns false if one was made before.
 */
export async function bootstrap(options: FirstAdminOptions): Promise<boolean> {
  const keyring = new Keyring(options.keyring.current, options.keyring.keys);
  const profile = BUILT_IN_PROFILES.find(({ name }) => name === "adm")!;
  const { tokenString, digest, hint } = mintTokenString(profile.prefix, keyring.current);
  const db = new Postgres({
    url: options.url,
    ...(options.shared && { shared: true }),
    maxConnections: 1,
    applicationName: "sallyport-bootstrap",
    onTrouble: () => {},
  });
  try {
    const token = {
      id: newTokenId(),
      digest,
      kid: keyring.current.kid,
      hint,
      tenant: "default",
      profile: profile.name,
      principal: "user:admin",
      ...NOTHING_GIVEN,
      displayName: "first administrator",
      scopes: ["sallyport.operator"],
      createdBy: "bootstrap",
    };
    return await makeFirstAdmin(db, token, options.ttlMs, options.again, () => options.keep(tokenString));
  } finally {
    await db.close();
  }
}

/** When the last live administrator of `bootstrap` expires. Undefined: never, or none is live. */
export async function firstAdminEnds(
  db: Pick<Postgres, "read">,
): Promise<{ hint: string; expireTime: number } | undefined> {
  const [row] = await db.read<{ hint: string; expire_time: number | null }>(
    `select v.hint, v.expire_time from sallyport.token_view v
     where v.tenant = 'default' and v.created_by = 'bootstrap' and v.state = 'ACTIVE'
     order by v.expire_time desc nulls first limit 1`,
  );
  return row === undefined || row.expire_time === null ? undefined : { hint: row.hint, expireTime: row.expire_time };
}
