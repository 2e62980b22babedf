/*
 * domain/: values and decisions. No I/O, no wire format, no clock of its own.
 *
 * The words, one per thing:
 *   token string  the secret credential on the wire; shown once, never stored
 *   Token         the stored record; its id is public
 *   hint          the visible start of a token string, up to and with its tag
 *   digest, kid   HMAC-SHA256 of the token string under pepper kid; the look-up key
 *   profile       a kind of token with its prefix and rules
 *   principal     whom the token speaks for, `type:id`, inside a tenant
 *   caller        who calls Sallyport itself
 *   verdict       the answer about a token: ALLOW, or one refusal
 *   revoke / disable / forget     change the truth for good / for now / drop a copy
 */

/** The effective state of a token at one moment. */
export type TokenState = "ACTIVE" | "NOT_YET_VALID" | "EXPIRED" | "DISABLED" | "REVOKED";

/** The form of a token string. */
export type TokenFormat = "opaque" | "jwt";

/** The stored record of a token. Times are milliseconds since 1970 of the database's clock. */
export interface Token {
  readonly id: string;
  readonly tenant: string;
  readonly profile: string;
  readonly principal: string;
  readonly displayName: string;
  readonly description: string;
  readonly scopes: readonly string[];
  /** Names of its roles, those that were deleted left out. */
  readonly roles: readonly string[];
  /** Further tenants in which it counts, beside its own. */
  readonly tenants: readonly string[];
  readonly audiences: readonly string[];
  readonly allowedCidrs: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly hint: string;
  readonly kid: string;
  readonly format: TokenFormat;
  /** The state at the time of the read. */
  readonly state: TokenState;
  readonly disabled: boolean;
  readonly createTime: number;
  readonly createdBy: string;
  readonly notBeforeTime?: number;
  readonly expireTime?: number;
  readonly revokeTime?: number;
  readonly revokedBy: string;
  readonly revokeReason: string;
  readonly rotatedFrom: string;
  readonly rotatedTo: string;
  readonly parent: string;
  /** Ids of its roles, deleted ones included. */
  readonly roleIds: readonly string[];
  /** The scopes of its roles. */
  readonly roleScopes: readonly string[];
  /** Those of the further tenants in which it is live if it is live at all. */
  readonly liveTenants: readonly string[];
  /** The scopes of the token that minted it, with those of its roles. Undefined if none did. */
  readonly parentScopes?: readonly string[];
  readonly lastUseTime?: number;
  readonly lastUseAddress: string;
  /** Its allowed uses, as far as they are stored. */
  readonly useCount: number;
  readonly etag: string;
}

/** The fields that a token is given when it is made. A rotation hands them on. */
export const GIVEN_FIELDS = [
  "tenant",
  "profile",
  "principal",
  "displayName",
  "description",
  "scopes",
  "roles",
  "tenants",
  "audiences",
  "allowedCidrs",
  "annotations",
] as const satisfies readonly (keyof Token)[];

export type Given = Pick<Token, (typeof GIVEN_FIELDS)[number]>;

/** The given fields that may be empty, as they are where nothing is said. */
export const NOTHING_GIVEN: Omit<Given, "tenant" | "profile" | "principal"> = {
  displayName: "",
  description: "",
  scopes: [],
  roles: [],
  tenants: [],
  audiences: [],
  allowedCidrs: [],
  annotations: {},
};

/** The given fields alone, of a token or of a request that has more. */
export function givenOf(of: Given): Given {
  return Object.fromEntries(GIVEN_FIELDS.map((field) => [field, of[field]])) as unknown as Given;
}

/** The fields that an update may change. */
export const CHANGEABLE_FIELDS = [
  "displayName",
  "description",
  "scopes",
  "roles",
  "tenants",
  "audiences",
  "allowedCidrs",
  "annotations",
  "expireTime",
  "disabled",
] as const satisfies readonly (keyof Token)[];

export type Changeable = Partial<Pick<Token, (typeof CHANGEABLE_FIELDS)[number]>>;
