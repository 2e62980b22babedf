import type { Clock, Timers } from "../domain/clock.ts";
import { AppError, invalidField } from "../domain/errors.ts";
import { checkText } from "../domain/issue.ts";
import type { Keyring } from "../domain/keyring.ts";
import { principalType } from "../domain/principal.ts";
import { mayNotEnd, rankOf, sparedFrom } from "../domain/rights.ts";
import { checkRoleName } from "../domain/role.ts";
import { parseTokenString } from "../domain/token-string.ts";
import { withDeadline } from "../domain/with-deadline.ts";
import type { Authority, Effect } from "../revocation/effect.ts";
import { type Access, actorOf, tenantOf } from "./access.ts";
import { Chunks } from "./chunks.ts";
import type { RevokeSelection, Selectors, TokenStore } from "./ports.ts";
import type { Repeats } from "./repeats.ts";
import { actorsOf } from "./rerun.ts";

const SHOWN = 1000;
/** Time kept for an answer without a count, and the time for the count if the caller has no deadline. Milliseconds. */
const RESERVE_MS = 50;
const COUNTING_MS = 5_000;

/** The selectors that are times: undefined where they are not given. */
type Times = "createdBefore" | "lastUsedBefore" | "expiresAfter";

/** An empty text, false, and an undefined time select nothing. */
export interface BulkRevokeRequest extends Omit<Selectors, Times>, Partial<Pick<Selectors, Times>> {
  readonly tenant: string;
  readonly principal: string;
  readonly descendants: boolean;
  readonly hints: readonly string[];
  readonly tokenStrings: readonly string[];
  readonly ids: readonly string[];
  readonly reason: string;
  readonly noWait: boolean;
  readonly dryRun: boolean;
}

export interface BulkRevokeResult {
  /** 0, with no ids, if the caller's time ends before the tokens of a cut are counted. */
  readonly revokedCount: number;
  readonly matchedIds: readonly string[];
  readonly effect?: Effect;
}

interface Matched {
  readonly count: number;
  readonly ids: readonly string[];
}

export interface BulkRevokeDeps {
  readonly store: TokenStore;
  readonly authority: Authority;
  readonly keyring: Keyring;
  readonly registeredTypes: readonly string[];
  readonly repeats: Repeats;
  readonly clock: Clock;
  readonly timers: Timers;
}

/**
 * Revokes many tokens. A cut ends those of a principal or a tenant in one row. Other selectors run in transactions of at
 * most 500 rows, with one wait at the end.
 */
export class BulkRevoke {
  readonly #o: BulkRevokeDeps;

  constructor(options: BulkRevokeDeps) {
    this.#o = options;
  }

  async run(access: Access, request: BulkRevokeRequest): Promise<BulkRevokeResult> {
    checkText("reason", request.reason, 200);
    const selection = this.#selection(access, request);
    const holding = sparedFrom(rankOf(access.caller));
    if (holding.length > 0 && (await this.#o.store.select({ ...selection, holding }, 1, "")).ids.length > 0)
      throw mayNotEnd();
    if (request.dryRun) {
      const { count, ids } = await this.#o.store.matched(selection, SHOWN, access);
      return { revokedCount: count, matchedIds: ids };
    }
    const byCut = Object.keys(selection).every((key) => key === "tenant" || key === "principal");
    return byCut ? this.#byCut(access, request, selection) : this.#byRow(access, request, selection);
  }

  /** Cuts first, then counts the tokens during the wait: a long list must not delay the cut. */
  async #byCut(access: Access, request: BulkRevokeRequest, selection: RevokeSelection): Promise<BulkRevokeResult> {
    const { tenant, principal } = selection;
    // If principals of this type must be registered, a cut does not register one.
    const mustExist =
      principal !== undefined && this.#o.registeredTypes.includes(principalType("principal", principal));
    // Outside the work, which may run again: a second cut would count only tokens since the first.
    let hit: Promise<Matched | undefined> | undefined;
    const actor = actorsOf(actorOf(access));
    const { effect } = await this.#o.authority.change(
      async (store) => {
        const cut = await store.cut(tenant, principal, mustExist, request.reason, actor());
        hit ??= this.#o.store.matched({ ...selection, cutFrom: cut.value }, SHOWN, access).catch(() => undefined);
        return cut;
      },
      { noWait: request.noWait, deadline: access.deadline },
    );
    const deadline = (access.deadline ?? this.#o.clock.mono() + COUNTING_MS) - RESERVE_MS;
    const found = await withDeadline(this.#o, hit!, deadline);
    return { revokedCount: found?.count ?? 0, matchedIds: found?.ids ?? [], effect };
  }

  async #byRow(access: Access, request: BulkRevokeRequest, selection: RevokeSelection): Promise<BulkRevokeResult> {
    // Outside the work, which may run again: tokens of an earlier run stay counted (twice, if a failover lost that run).
    let revoked = 0;
    let matchedIds: readonly string[] | undefined;
    const actor = this.#o.repeats.actors(access, "tokens.revoke");
    const { effect } = await this.#o.authority.change(
      async (store) => {
        const count = (more: number) => (revoked += more);
        const chunks = new Chunks(store, selection.tenant, request.reason, actor(), count);
        await chunks.revokeSelected(this.#o.store, selection, (ids) => {
          matchedIds ??= ids.slice(0, SHOWN);
        });
        return chunks.end();
      },
      { noWait: request.noWait, deadline: access.deadline },
    );
    return { revokedCount: revoked, matchedIds: matchedIds ?? [], effect };
  }

  #selection(access: Access, request: BulkRevokeRequest): RevokeSelection {
    const listed = request.hints.length + request.tokenStrings.length + request.ids.length > 0;
    const selectors = selectorsOf(request);
    const given = request.tenant !== "" || request.principal !== "" || Object.keys(selectors).length > 0;
    if (!listed && !given) {
      throw invalidField("tenant", "or another selector must be given: nothing is revoked by an empty request");
    }
    if (request.principal !== "") principalType("principal", request.principal);
    if (request.role !== "") checkRoleName("role", request.role);
    const tenant = tenantOf(access, request.tenant);
    let principal = request.principal === "" ? undefined : request.principal;
    if (access.reach === "own") {
      if (principal !== undefined && principal !== access.caller.principal) {
        throw new AppError("PRINCIPAL_NOT_FOUND", "no such principal");
      }
      principal = access.caller.principal;
    }
    return {
      tenant,
      ...(principal !== undefined && { principal }),
      ...(request.descendants && { descendants: true, ...(access.reach === "own" && { within: principal }) }),
      ...selectors,
      ...(listed && {
        hints: request.hints,
        ids: request.ids,
        digests: request.tokenStrings.flatMap((text) => parseTokenString(text, this.#o.keyring)?.digest ?? []),
      }),
    };
  }
}

/**
 * The given selectors. The request counts as given, and is carried out, by this one list: a selector that only the first
 * knew would leave the tenant alone, which is a cut of all its tokens.
 */
function selectorsOf(request: BulkRevokeRequest): Partial<Selectors> {
  const all: { readonly [K in keyof Selectors]: Selectors[K] | undefined } = {
    profile: request.profile,
    createdBy: request.createdBy,
    createdBefore: request.createdBefore,
    role: request.role,
    lastUsedBefore: request.lastUsedBefore,
    noExpiry: request.noExpiry,
    expiresAfter: request.expiresAfter,
  };
  const given = (value: unknown) => value !== undefined && value !== "" && value !== false;
  return Object.fromEntries(Object.entries(all).filter(([, value]) => given(value)));
}
