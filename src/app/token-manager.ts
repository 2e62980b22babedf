import { createHash, randomBytes } from "node:crypto";
import { isOperator } from "../domain/caller.ts";
import { AppError, invalidField } from "../domain/errors.ts";
import * as rules from "../domain/issue.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Profile } from "../domain/profile.ts";
import type { Secret } from "../domain/secret.ts";
import type { Token } from "../domain/token.ts";
import { isTokenId, mintTokenString, newTokenId, parseTokenString } from "../domain/token-string.ts";
import type { Clock, Idempotency, LifetimeRule, PageStart, TokenChange, TokenFilter, TokenStore } from "../ports.ts";
import { type Access, actorOf, requestIdOf, sees, tenantOf } from "./access.ts";
import type { Authority, Effect } from "./authority.ts";
import { Repeats } from "./repeats.ts";

const DAY = 86_400_000;

/** The lifetime that a request asks for; milliseconds. Nothing given: the default. */
export interface AskedLifetime {
  readonly ttl?: number;
  readonly expireTime?: number;
  readonly noExpiry?: boolean;
}

export interface CreateRequest {
  readonly tenant: string;
  readonly profile: string;
  readonly principal: string;
  readonly displayName: string;
  readonly description: string;
  readonly scopes: readonly string[];
  readonly audiences: readonly string[];
  readonly allowedCidrs: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly lifetime: AskedLifetime;
  readonly notBeforeTime?: number;
  readonly requestId: string;
  /** The request in its canonical form: a repeat must be the same. */
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

export interface TokenManagerOptions {
  readonly store: TokenStore;
  readonly authority: Authority;
  readonly clock: Pick<Clock, "mono">;
  readonly keyring: Keyring;
  readonly profiles: ReadonlyMap<string, Profile>;
  readonly registeredTypes: readonly string[];
  readonly mintPerAddressPerHour: number;
  readonly mintPerPrincipalPerDay: number;
  /** The kid to mint under: only one that every live validator lists. */
  readonly mintKid: () => Promise<string>;
}

/** Tokens, by the rules of issue. It decides what; the authority makes it happen. */
export class TokenManager {
  readonly #o: TokenManagerOptions;
  readonly #repeats: Repeats;

  constructor(options: TokenManagerOptions) {
    this.#o = options;
    this.#repeats = new Repeats(options.clock);
  }

  async create(access: Access, request: CreateRequest): Promise<{ token: Token; tokenString: Secret }> {
    const { caller } = access;
    const profile = this.#profile("profile", request.profile);
    const tenant = tenantOf(access, request.tenant);
    const type = rules.checkPrincipal(profile, request.principal);
    if (!sees(access, tenant, request.principal)) throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal");
    const minter = rules.checkMinter(profile, caller, tenant, request.principal);
    const displayName = rules.checkName("display_name", request.displayName, profile.allowEmptyName);
    rules.checkText("description", request.description, 500);
    rules.checkAudiences(request.audiences);
    rules.checkCidrs(request.allowedCidrs);
    rules.checkAnnotations("annotations", request.annotations);
    const scopes = [...new Set(request.scopes)];
    rules.checkScopes(profile, caller, scopes);
    const lifetime = this.#lifetime(profile, request.lifetime, scopes, request.notBeforeTime);
    const minting = await this.#mintString(profile, access, "CreateToken", request.requestId, request.body);
    const exempt = caller.direct || caller.kind === "break-glass" || isOperator(caller);
    const made = await this.#o.authority.issue((store) =>
      store.createToken(
        {
          ...minting.fresh,
          id: newTokenId(),
          tenant,
          profile: profile.name,
          principal: request.principal,
          displayName,
          description: request.description,
          scopes,
          audiences: [...new Set(request.audiences)],
          allowedCidrs: request.allowedCidrs,
          annotations: request.annotations,
          createdBy: caller.provenance,
        },
        lifetime,
        {
          callerTokenId: caller.tokenId,
          callerScopes: caller.scopes,
          child: minter === "token",
          mustExist: this.#o.registeredTypes.includes(type),
        },
        {
          address: exempt ? "" : caller.address,
          perAddressPerHour: exempt ? 0 : this.#o.mintPerAddressPerHour,
          perPrincipalPerDay: this.#o.mintPerPrincipalPerDay,
          maxLive: profile.maxLivePerPrincipal,
        },
        actorOf(access),
        minting.idempotency,
      ),
    );
    if (made.kind === "created") return { token: made.token, tokenString: minting.tokenString };
    return { token: made.token, tokenString: this.#again(made.token, made.salt, minting.idempotency) };
  }

  async get(access: Access, id: string): Promise<Token> {
    if (!isTokenId(id)) throw invalidField("id", "must be tok_ and 22 of 0-9 A-Z a-z");
    return this.#visible(access, await this.#o.store.get(id));
  }

  /** A token by its string, hashed; TOKEN_NOT_FOUND for whatever is not one of ours. */
  async byString(access: Access, tokenString: string): Promise<Token> {
    const parsed = parseTokenString(tokenString, this.#o.keyring);
    return this.#visible(access, parsed && (await this.#o.store.getByDigest(parsed.digest)));
  }

  async list(access: Access, filter: TokenFilter, limit: number, start?: PageStart): Promise<Token[]> {
    const tenant = tenantOf(access, filter.tenant);
    if (access.reach !== "own") return this.#o.store.list({ ...filter, tenant }, limit, start);
    const own = access.caller.principal;
    if (filter.principal !== undefined && filter.principal !== own) return [];
    return this.#o.store.list({ ...filter, tenant, principal: own }, limit, start);
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
      rules.checkScopes(profile, access.caller, checked.scopes);
    }
    if (change.noExpiry === true) rules.checkNoExpiry("token.expire_time", profile);
    const ceiling = rules.ceilingOf(profile, checked.scopes ?? token.scopes);
    const { value, effect } = await this.#o.authority.change(
      (store) =>
        store.updateToken(id, checked, etag, { maxTtl: profile.maxTtl, ceiling }, this.#guard(access), actorOf(access)),
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
    if (token.revokeTime !== undefined) this.#repeats.admit(access);
    const { value, effect } = await this.#o.authority.change(
      (store) => store.revokeToken(token.id, family, reason, actorOf(access)),
      { noWait, deadline: access.deadline },
    );
    return { token: value, effect };
  }

  async rotate(
    access: Access,
    request: RotateRequest,
  ): Promise<{ token: Token; tokenString: Secret; previous: Token; effect: Effect }> {
    const old = await this.get(access, request.id);
    const profile = this.#profile("id", old.profile);
    this.#checkMayRotate(access, old, profile);
    if (!(request.overlap >= 0 && request.overlap <= 7 * DAY)) {
      throw invalidField("overlap", "must be 0s to 604800s");
    }
    const { ttl, expireTime, noExpiry } = request.lifetime;
    const given = ttl !== undefined || expireTime !== undefined || noExpiry !== undefined;
    const asked = given ? request.lifetime : sameLifetime(old, profile);
    const lifetime = this.#lifetime(profile, asked, old.scopes, undefined);
    const minting = await this.#mintString(profile, access, "RotateToken", request.requestId, request.body);
    const fresh = { ...minting.fresh, id: newTokenId(), createdBy: access.caller.provenance };
    const { value, effect } = await this.#o.authority.change(
      (store) =>
        store.rotateToken(
          old.id,
          fresh,
          lifetime,
          request.overlap,
          this.#guard(access),
          actorOf(access),
          minting.idempotency,
        ),
      { noWait: request.noWait, deadline: access.deadline },
    );
    const tokenString =
      value.kind === "created" ? minting.tokenString : this.#again(value.token, value.salt, minting.idempotency);
    return { token: value.token, tokenString, previous: value.previous ?? old, effect };
  }

  #checkMayRotate(access: Access, old: Token, profile: Profile): void {
    const { caller } = access;
    if (access.reach === "own") {
      if (caller.kind !== "token") return;
      if (caller.tokenId !== old.id) throw new AppError("TOKEN_NOT_FOUND", "no such token");
      if (!profile.selfRotate) {
        throw new AppError("CALLER_FORBIDDEN", `tokens of profile ${profile.name} do not rotate themselves`);
      }
      return;
    }
    // The answer holds the new string: nobody gets rights by rotation that it could not grant.
    if (caller.tokenId !== old.id) rules.checkScopes(profile, caller, old.scopes);
  }

  #lifetime(
    profile: Profile,
    asked: AskedLifetime,
    scopes: readonly string[],
    notBeforeTime: number | undefined,
  ): LifetimeRule {
    const rule = { maxTtl: profile.maxTtl, ceiling: rules.ceilingOf(profile, scopes), notBeforeTime };
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

  async #mintString(profile: Profile, access: Access, method: string, requestId: string, body: Uint8Array) {
    const id = requestIdOf(requestId);
    const keys = this.#o.keyring.get(await this.#o.mintKid()) ?? this.#o.keyring.current;
    if (id === undefined) {
      const { tokenString, digest, hint } = mintTokenString(profile.prefix, keys);
      return { tokenString, fresh: { digest, hint, kid: keys.kid }, idempotency: undefined };
    }
    const salt = randomBytes(32);
    const caller = access.caller.tokenId ?? access.caller.provenance;
    const secret = keys.mint.fields(salt, id, caller);
    const { tokenString, digest, hint } = mintTokenString(profile.prefix, keys, secret);
    const hash = createHash("sha256").update(body).digest();
    const idempotency: Idempotency = { caller, requestId: id, method, body: hash, salt };
    return { tokenString, fresh: { digest, hint, kid: keys.kid }, idempotency };
  }

  /** The string that the first request with this id was answered with, made again. */
  #again(token: Token, salt: Uint8Array, idempotency: Idempotency | undefined): Secret {
    const keys = this.#o.keyring.get(token.kid);
    if (keys === undefined || idempotency === undefined) {
      throw new AppError("INTERNAL", "the first answer can not be made again");
    }
    const secret = keys.mint.fields(salt, idempotency.requestId, idempotency.caller);
    // The prefix of then: a profile's prefix can change between two calls.
    return mintTokenString(token.hint.slice(0, -10), keys, secret).tokenString;
  }

  #guard(access: Access) {
    return { callerTokenId: access.caller.tokenId, callerScopes: access.caller.scopes };
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

/** What the old token was made to live, within what its profile allows today. */
function sameLifetime(old: Token, profile: Profile): AskedLifetime {
  if (old.expireTime !== undefined) return { ttl: Math.min(old.expireTime - old.createTime, profile.maxTtl) };
  return profile.allowNoExpiry ? { noExpiry: true } : {};
}
