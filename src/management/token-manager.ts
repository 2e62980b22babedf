import { createHash, randomBytes } from "node:crypto";
import { type Caller, isOperator } from "../domain/caller.ts";
import { AppError, invalidField, type Reason } from "../domain/errors.ts";
import * as rules from "../domain/issue.ts";
import {
  type ClaimedFacts,
  headerIn,
  jwtHint,
  jwtLength,
  LONGEST_JWT,
  signingInput,
  signJwt,
} from "../domain/jwt-string.ts";
import type { Keyring, Keys } from "../domain/keyring.ts";
import type { LifetimeRule } from "../domain/lifetime.ts";
import { countedNetwork } from "../domain/networks.ts";
import { checkTenantId, principalType } from "../domain/principal.ts";
import type { Profile } from "../domain/profile.ts";
import { checkRoleName, checkRoleNames } from "../domain/role.ts";
import type { Secret } from "../domain/secret.ts";
import type { SigningAlgorithm } from "../domain/signing-keys.ts";
import { type Given, givenOf, type Token } from "../domain/token.ts";
import { isTokenId, mintTokenString, newTokenId, parseTokenString } from "../domain/token-string.ts";
import type { AuthorityStore, Idempotency, NewToken, Repeated, TokenChange } from "../revocation/authority-store.ts";
import type { Authority, Effect } from "../revocation/effect.ts";
import { type Access, actorOf, guardOf, listedTenant, requestIdOf, sees, tenantOf } from "./access.ts";
import { foundNothing } from "./known.ts";
import type { Signer } from "./mint-kid.ts";
import type { PageStart, Part, TokenFilter, TokenStore } from "./ports.ts";
import type { Repeats } from "./repeats.ts";
import { actorsOf } from "./rerun.ts";

const DAY = 86_400_000;
const TOKEN_ID = "must be tok_ and 22 of 0-9 A-Z a-z";

/** The caller whose repeats get the first answer. One session's subject can call in several tenants. */
function repeaterOf({ kind, tokenId, provenance, tenant }: Caller): string {
  return kind === "session" ? `${provenance} in ${tenant}` : (tokenId ?? provenance);
}

/** The lifetime in a request, milliseconds. Nothing given: the profile's default. */
export interface AskedLifetime {
  readonly ttl?: number;
  readonly expireTime?: number;
  readonly noExpiry?: boolean;
}

export interface CreateRequest extends Given, Pick<Token, "notBeforeTime"> {
  readonly lifetime: AskedLifetime;
  readonly requestId: string;
  /** The request in canonical form. A repeat must be equal. */
  readonly body: Uint8Array;
}

export interface RotateRequest {
  readonly id: string;
  readonly overlap: number;
  readonly lifetime: AskedLifetime;
  readonly requestId: string;
  readonly body: Uint8Array;
  readonly noWait: boolean;
}

export interface RotateResult {
  readonly token: Token;
  readonly tokenString: Secret;
  readonly previous: Token;
  readonly effect: Effect;
}

/** Tenants beside a token's own. */
const MOST_TENANTS = 16;

/** Further tenants for a token, each once. The transaction judges if the caller may name them. */
function furtherTenants(field: string, tenants: readonly string[]): string[] {
  if (tenants.length > MOST_TENANTS) throw invalidField(field, `must have at most ${MOST_TENANTS} entries`);
  for (const tenant of tenants) checkTenantId(field, tenant);
  return [...new Set(tenants)];
}

/** The filters of the tokens of others that do not ask for what the list does not show. */
const OF_ATTACHED: ReadonlySet<string> = new Set<keyof TokenFilter>([
  "attached",
  "tenant",
  "principal",
  "hint",
  "ids",
  "createdAfter",
  "createdBefore",
  "lastUsedBefore",
  "expiresBefore",
  "noExpiry",
]);

function checkAttachedFilter({ reach }: Access, filter: TokenFilter, tenant: string | undefined): void {
  if (tenant === undefined) throw invalidField("tenant", "must name one tenant for the tokens attached to it");
  if (reach === "own") {
    const permission = "sallyport.tokens.read";
    const text = `tokens of other tenants need the permission ${permission}`;
    throw new AppError("CALLER_FORBIDDEN", text, { metadata: { permission } });
  }
  for (const [name, value] of Object.entries(filter)) {
    if (value !== undefined && !OF_ATTACHED.has(name)) {
      throw invalidField("attached", "can be combined with principal, hint, ids and times only");
    }
  }
}

/** Refusals that say nothing about the credential. */
const WORTH_A_REPEAT: ReadonlySet<Reason> = new Set<Reason>([
  "NOT_DONE",
  "STORE_UNAVAILABLE",
  "OUTCOME_UNKNOWN",
  "WRITE_CONFLICT",
  "EFFECT_PENDING",
  "DEADLINE",
  "LIMIT_EXCEEDED",
  "NO_SIGNING_KEY",
  "INTERNAL",
]);

export interface TokenManagerOptions {
  readonly store: TokenStore;
  readonly authority: Authority;
  /** Issuing removes no rights, so it does not wait. */
  readonly issuer: Pick<AuthorityStore, "createToken">;
  readonly repeats: Repeats;
  readonly keyring: Keyring;
  readonly profiles: ReadonlyMap<string, Profile>;
  readonly registeredTypes: readonly string[];
  readonly mintPerAddressPerHour: number;
  readonly mintPerPrincipalPerDay: number;
  readonly rotatePerPrincipalPerDay: number;
  /** The prefix of an IPv6 address that counts as one client. */
  readonly ipv6PrefixLength: number;
  /** A string was used after its rotation ended it, and not to repeat that rotation. */
  readonly reused: (tokenId: string) => void;
  /** The kid to mint under: one that every live validator has. */
  readonly mintKid: () => Promise<string>;
  /** The key to sign with: one that every live validator has. */
  readonly mintSigner: (alg: SigningAlgorithm) => Promise<Signer>;
}

/** A token string in the making. */
interface Minting {
  readonly fresh: Pick<NewToken, "id" | "digest" | "hint" | "kid" | "sign">;
  readonly idempotency: Idempotency | undefined;
  /** The string, once the token exists. */
  tokenString(): Secret;
}

/** Tokens, by the rules of issue. It checks and decides; the authority makes the change. */
export class TokenManager {
  readonly #o: TokenManagerOptions;

  constructor(options: TokenManagerOptions) {
    this.#o = options;
  }

  async create(access: Access, request: CreateRequest): Promise<{ token: Token; tokenString: Secret }> {
    const { caller } = access;
    const profile = this.#profile("profile", request.profile);
    const tenant = tenantOf(access, request.tenant);
    const type = rules.checkPrincipal(profile, request.principal);
    if (!sees(access, tenant, request.principal)) throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal");
    const displayName = rules.checkName("display_name", request.displayName, profile.allowEmptyName);
    rules.checkText("description", request.description, 500);
    rules.checkAudiences(request.audiences);
    rules.checkCidrs(request.allowedCidrs);
    rules.checkAnnotations("annotations", request.annotations);
    const scopes = [...new Set(request.scopes)];
    rules.checkScopeForms(scopes);
    checkRoleNames("roles", request.roles);
    const tenants = furtherTenants("tenants", request.tenants);
    if (tenants.includes(tenant)) throw invalidField("tenants", "must not name the token's own tenant");
    if (tenants.length > 0 && request.roles.length > 0) {
      throw invalidField("tenants", "must be empty for a token that holds roles");
    }
    const lifetime = {
      ...this.#lifetime(profile, request.lifetime),
      ceiling: rules.ceilingOf(profile, scopes),
      notBeforeTime: request.notBeforeTime,
    };
    rules.checkRepeatable(profile, request.requestId);
    const minting = await this.#mintString(profile, access, "CreateToken", request.requestId, request.body);
    const exempt = caller.direct || caller.kind === "break-glass" || isOperator(caller);
    const made = await this.#o.issuer.createToken(
      {
        ...givenOf(request),
        ...minting.fresh,
        tenant,
        displayName,
        scopes,
        roles: [...new Set(request.roles)],
        tenants,
        audiences: [...new Set(request.audiences)],
        createdBy: caller.provenance,
      },
      lifetime,
      { ...this.#guard(access, profile), child: false, mustExist: this.#o.registeredTypes.includes(type) },
      {
        address: exempt ? "" : countedNetwork(caller.address, this.#o.ipv6PrefixLength),
        perAddressPerHour: exempt ? 0 : this.#o.mintPerAddressPerHour,
        perPrincipalPerDay: this.#o.mintPerPrincipalPerDay,
        maxLive: profile.maxLivePerPrincipal,
      },
      this.#o.repeats.actors(access, "token.create")(),
      minting.idempotency,
    );
    if (made.kind === "created") return { token: made.token, tokenString: minting.tokenString() };
    return { token: made.token, tokenString: this.#again(made, minting.idempotency) };
  }

  async get(access: Access, id: string): Promise<Token> {
    if (!isTokenId(id)) throw invalidField("id", TOKEN_ID);
    return this.#visible(access, await this.#o.store.get(id));
  }

  /** Finds a token by its string, which is hashed first. TOKEN_NOT_FOUND for any other string. */
  async byString(access: Access, tokenString: string): Promise<Token> {
    const parsed = parseTokenString(tokenString, this.#o.keyring);
    return this.#visible(access, parsed && (await this.#o.store.getByDigest(parsed.digest)));
  }

  async list(access: Access, filter: TokenFilter, limit: number, start?: PageStart): Promise<Part<Token>> {
    const tenant = listedTenant(access, filter.tenant ?? "");
    if (filter.principal !== undefined) principalType("principal", filter.principal);
    if (filter.role !== undefined) checkRoleName("role", filter.role);
    for (const [field, id] of [
      ...(filter.ids ?? []).map((id) => ["ids", id] as const),
      ["family_of", filter.familyOf] as const,
      ["parent", filter.parent] as const,
    ]) {
      if (id !== undefined && !isTokenId(id)) throw invalidField(field, TOKEN_ID);
    }
    if (filter.attached) checkAttachedFilter(access, filter, tenant);
    const part = await this.#part(access, { ...filter, tenant }, limit, start);
    if (!foundNothing(part, start)) return part;
    // Old tokens can have a profile that is no longer configured. So it is unknown only if it has no tokens.
    if (filter.profile !== undefined) this.#profile("profile", filter.profile);
    if (tenant !== undefined && (await this.#o.store.getTenant(tenant)) === undefined)
      throw new AppError("TENANT_NOT_FOUND", "no such tenant");
    return part;
  }

  async #part(access: Access, filter: TokenFilter, limit: number, start?: PageStart): Promise<Part<Token>> {
    if (access.reach !== "own") return this.#o.store.list(filter, limit, start, access);
    const own = access.caller.principal;
    if (filter.principal !== undefined && filter.principal !== own) return { rows: [] };
    return this.#o.store.list({ ...filter, principal: own }, limit, start, access);
  }

  async update(
    access: Access,
    id: string,
    change: TokenChange,
    etag: string,
    noWait: boolean,
  ): Promise<{ token: Token; effect: Effect }> {
    const token = await this.get(access, id);
    const profile = this.#profile("token.profile", token.profile);
    const checked = { ...change };
    if (change.displayName !== undefined) {
      checked.displayName = rules.checkName("token.display_name", change.displayName, profile.allowEmptyName);
    }
    if (change.description !== undefined) rules.checkText("token.description", change.description, 500);
    if (change.audiences !== undefined) rules.checkAudiences(change.audiences);
    if (change.allowedCidrs !== undefined) rules.checkCidrs(change.allowedCidrs);
    if (change.annotations !== undefined) rules.checkAnnotations("token.annotations", change.annotations);
    if (change.scopes !== undefined) {
      checked.scopes = [...new Set(change.scopes)];
      rules.checkScopeForms(checked.scopes);
    }
    if (change.roles !== undefined) {
      checkRoleNames("token.roles", change.roles);
      checked.roles = [...new Set(change.roles)];
    }
    if (change.tenants !== undefined) checked.tenants = furtherTenants("token.tenants", change.tenants);
    if (change.noExpiry === true) rules.checkNoExpiry("token.expire_time", profile);
    const guard = this.#guard(access, profile);
    const actor = actorsOf(actorOf(access));
    const { value, effect } = await this.#o.authority.change(
      (store) => store.updateToken(id, checked, etag, { maxTtl: profile.maxTtl }, guard, actor()),
      { noWait, deadline: access.deadline },
    );
    return { token: value, effect };
  }

  async revoke(
    access: Access,
    token: Token,
    family: boolean,
    reason: string,
    noWait: boolean,
  ): Promise<{ token: Token; effect: Effect }> {
    rules.checkText("reason", reason, 200);
    const actor = this.#o.repeats.actors(access, "token.revoke", token.revokeTime !== undefined && !family);
    const { value, effect } = await this.#o.authority.change(
      (store) => store.revokeToken(token.id, family, reason, actor()),
      { noWait, deadline: access.deadline },
    );
    return { token: value, effect };
  }

  async rotate(access: Access, request: RotateRequest): Promise<RotateResult> {
    const old = await this.#unlessReused(access, () => this.#rotatable(access, request.id));
    // A profile can change between a rotation and its repeat. That says nothing about the credential.
    const profile = this.#profile("id", old.profile);
    rules.checkRepeatable(profile, request.requestId);
    return this.#unlessReused(access, () => this.#rotate(access, request, old, profile));
  }

  /**
   * The token that a rotation ended is still a credential for a repeat of the same request. Any other use of it is a
   * reuse.
   */
  async #unlessReused<T>({ caller }: Access, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      if (caller.ended === undefined || (error instanceof AppError && WORTH_A_REPEAT.has(error.reason))) throw error;
      this.#o.reused(caller.tokenId ?? "");
      throw new AppError("CALLER_UNAUTHENTICATED", "the credential is not good");
    }
  }

  /** The token to rotate. A token that reaches only what is its own reaches no other one of its principal here. */
  async #rotatable(access: Access, id: string): Promise<Token> {
    const { caller } = access;
    const token = await this.get(access, id);
    if (access.reach === "own" && caller.kind === "token" && caller.tokenId !== token.id) {
      throw new AppError("TOKEN_NOT_FOUND", "no such token");
    }
    return token;
  }

  async #rotate(access: Access, request: RotateRequest, old: Token, profile: Profile): Promise<RotateResult> {
    const { caller } = access;
    if (!(request.overlap >= 0 && request.overlap <= 7 * DAY)) {
      throw invalidField("overlap", "must be 0s to 604800s");
    }
    const { ttl, expireTime, noExpiry } = request.lifetime;
    const given = ttl !== undefined || expireTime !== undefined || noExpiry !== undefined;
    const lifetime = given ? this.#lifetime(profile, request.lifetime) : undefined;
    const minting = await this.#mintString(profile, access, "RotateToken", request.requestId, request.body);
    const fresh = { ...minting.fresh, createdBy: caller.provenance };
    // A string that was rotated away has yet to prove that it repeats its own rotation.
    const known = old.rotatedTo !== "" && caller.ended === undefined;
    const actor = this.#o.repeats.actors(access, "token.rotate", known);
    const { value, effect } = await this.#o.authority.change(
      (store) =>
        store.rotateToken(
          old.id,
          fresh,
          lifetime,
          request.overlap,
          this.#guard(access, profile),
          actor(),
          minting.idempotency,
        ),
      { noWait: request.noWait, deadline: access.deadline },
    );
    const tokenString = value.kind === "created" ? minting.tokenString() : this.#again(value, minting.idempotency);
    return { token: value.token, tokenString, previous: value.previous ?? old, effect };
  }

  #lifetime(profile: Profile, asked: AskedLifetime): LifetimeRule {
    const rule = { maxTtl: profile.maxTtl };
    if (asked.noExpiry !== undefined) {
      if (!asked.noExpiry) throw invalidField("no_expiry", "must be true where it is given");
      rules.checkNoExpiry("no_expiry", profile);
      return { ...rule, never: true };
    }
    if (asked.expireTime !== undefined) return { ...rule, expireTime: asked.expireTime };
    if (asked.ttl !== undefined) {
      rules.checkTtl(profile, asked.ttl);
      return { ...rule, ttl: asked.ttl };
    }
    return { ...rule, ttl: Math.min(profile.defaultTtl, profile.maxTtl) };
  }

  async #mintString(
    profile: Profile,
    access: Access,
    method: string,
    requestId: string,
    body: Uint8Array,
  ): Promise<Minting> {
    const requested = requestIdOf(requestId);
    const caller = repeaterOf(access.caller);
    const hash = createHash("sha256").update(body).digest();
    return this.newString(
      profile,
      requested === undefined ? undefined : { caller, requestId: requested, method, body: hash, salt: randomBytes(32) },
    );
  }

  /** A new string of a profile, for a token that the caller of this method makes. */
  async newString(profile: Profile, idempotency?: Idempotency): Promise<Minting> {
    const keys = this.#o.keyring.get(await this.#o.mintKid()) ?? this.#o.keyring.current;
    const id = newTokenId();
    if (profile.format === "jwt") return this.#signing(id, keys, await this.#o.mintSigner(profile.alg), idempotency);
    const secret = idempotency && keys.mint.fields(idempotency.salt, idempotency.requestId, idempotency.caller);
    const { tokenString, digest, hint } = mintTokenString(profile.prefix, keys, secret);
    return { fresh: { id, digest, hint, kid: keys.kid }, idempotency, tokenString: () => tokenString };
  }

  /** A string in JWT form. The transaction signs it, because its claims state what the row holds. */
  #signing(id: string, keys: Keys, { key: signedBy, issuer }: Signer, idempotency: Idempotency | undefined): Minting {
    let made: Secret | undefined;
    const sign = (facts: ClaimedFacts) => {
      const input = signingInput(facts, issuer, signedBy, keys);
      if (jwtLength(input) > LONGEST_JWT) {
        throw invalidField("scopes", `and audiences are too long: a JWT has at most ${LONGEST_JWT} characters`);
      }
      const { tokenString, digest } = signJwt(input, { signedBy, keys });
      made = tokenString;
      return { digest, signingKey: signedBy.id, input };
    };
    const tokenString = () => {
      if (made === undefined) throw new AppError("INTERNAL", "the token was not signed");
      return made;
    };
    return { fresh: { id, digest: "", hint: jwtHint(id), kid: keys.kid, sign }, idempotency, tokenString };
  }

  /** Makes the string of the first answer to this request id again. */
  #again({ token, salt, input }: Repeated, idempotency: Idempotency | undefined): Secret {
    if (input !== undefined) {
      const header = headerIn(input, this.#o.keyring);
      if (header?.signedBy.private !== undefined) return signJwt(input, header).tokenString;
      throw new AppError("NO_SIGNING_KEY", "this instance no longer has the key that signed the first answer");
    }
    const keys = this.#o.keyring.get(token.kid);
    if (keys === undefined || idempotency === undefined) {
      throw new AppError("INTERNAL", "the first answer cannot be made again");
    }
    const secret = keys.mint.fields(salt, idempotency.requestId, idempotency.caller);
    // With the prefix of that time: a profile's prefix can change between two calls.
    return mintTokenString(token.hint.slice(0, -10), keys, secret).tokenString;
  }

  /** Takes a token of another tenant out of one of the caller's. */
  async detach(access: Access, asked: string, id: string, noWait: boolean): Promise<Effect> {
    if (!isTokenId(id)) throw invalidField("id", TOKEN_ID);
    const tenant = tenantOf(access, asked);
    const actor = this.#o.repeats.actors(access, "token.detach");
    const { effect } = await this.#o.authority.change((store) => store.detachTenant(tenant, id, actor()), {
      noWait,
      deadline: access.deadline,
    });
    return effect;
  }

  /** The guard that the transaction judges on the locked rows. */
  #guard(access: Access, profile: Profile) {
    const { caller } = access;
    const rights = { caller, profile, rotationsPerDay: this.#o.rotatePerPrincipalPerDay };
    return { ...guardOf(access), rights, ended: caller.ended };
  }

  #profile(field: string, name: string): Profile {
    const profile = this.#o.profiles.get(name);
    if (profile === undefined) {
      throw invalidField(field, `must be one of ${[...this.#o.profiles.keys()].join(", ")}`);
    }
    return profile;
  }

  #visible(access: Access, token: Token | undefined): Token {
    if (token === undefined || !sees(access, token.tenant, token.principal)) {
      throw new AppError("TOKEN_NOT_FOUND", "no such token");
    }
    return token;
  }
}
