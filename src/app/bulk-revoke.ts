import { AppError, invalidField } from "../domain/errors.ts";
import { checkText } from "../domain/issue.ts";
import type { Keyring } from "../domain/keyring.ts";
import { principalType } from "../domain/principal.ts";
import { parseTokenString } from "../domain/token-string.ts";
import type { AuthorityStore, Committed, RevokeSelection, TokenStore } from "../ports.ts";
import { type Access, actorOf, tenantOf } from "./access.ts";
import type { Authority, Effect } from "./authority.ts";

const CHUNK = 500;
const SHOWN = 1000;

export interface BulkRevokeRequest {
  readonly tenant: string;
  readonly principal: string;
  readonly profile: string;
  readonly createdBy: string;
  readonly createdBefore?: number;
  readonly hints: readonly string[];
  readonly tokenStrings: readonly string[];
  readonly ids: readonly string[];
  readonly reason: string;
  readonly noWait: boolean;
  readonly dryRun: boolean;
}

export interface BulkRevokeResult {
  readonly revokedCount: number;
  readonly matchedIds: readonly string[];
  readonly effect?: Effect;
}

/**
 * Revokes many tokens: those of a principal or a whole tenant by one cut, O(1); by other selectors in transactions of
 * at most 500 rows, with one wait at the end.
 */
export class BulkRevoke {
  readonly #o: { readonly store: TokenStore; readonly authority: Authority; readonly keyring: Keyring };

  constructor(options: { store: TokenStore; authority: Authority; keyring: Keyring }) {
    this.#o = options;
  }

  async run(access: Access, request: BulkRevokeRequest): Promise<BulkRevokeResult> {
    checkText("reason", request.reason, 200);
    const selection = this.#selection(access, request);
    const matchedIds = await this.#o.store.select(selection, SHOWN, "");
    // Only a long list needs another statement to be counted.
    const matched = matchedIds.length < SHOWN ? matchedIds.length : await this.#o.store.count(selection);
    if (request.dryRun) return { revokedCount: matched, matchedIds };
    const options = { noWait: request.noWait, deadline: access.deadline };
    const byCut = Object.keys(selection).every((key) => key === "tenant" || key === "principal");
    if (byCut) {
      const { effect } = await this.#o.authority.change(
        (store) => store.cut(selection.tenant, selection.principal, request.reason, actorOf(access)),
        options,
      );
      return { revokedCount: matched, matchedIds, effect };
    }
    // Outside the work, which may run again: what an earlier run revoked stays counted.
    const revoked = new Set<string>();
    const { effect } = await this.#o.authority.change(
      (store) => this.#inChunks(store, selection, request.reason, access, revoked),
      options,
    );
    return { revokedCount: revoked.size, matchedIds, effect };
  }

  #selection(access: Access, request: BulkRevokeRequest): RevokeSelection {
    const listed = request.hints.length + request.tokenStrings.length + request.ids.length > 0;
    const given = [request.tenant, request.principal, request.profile, request.createdBy].some((text) => text !== "");
    if (!listed && !given && request.createdBefore === undefined) {
      throw invalidField("tenant", "or another selector must be given: nothing is revoked by an empty request");
    }
    if (request.principal !== "") principalType("principal", request.principal);
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
      ...(request.profile !== "" && { profile: request.profile }),
      ...(request.createdBy !== "" && { createdBy: request.createdBy }),
      ...(request.createdBefore !== undefined && { createdBefore: request.createdBefore }),
      ...(listed && {
        hints: request.hints,
        ids: request.ids,
        digests: request.tokenStrings.flatMap((text) => parseTokenString(text, this.#o.keyring)?.digest ?? []),
      }),
    };
  }

  async #inChunks(
    store: AuthorityStore,
    selection: RevokeSelection,
    reason: string,
    access: Access,
    revoked: Set<string>,
  ): Promise<Committed<void>> {
    let last: Committed<unknown> | undefined;
    let afterId = "";
    for (;;) {
      const ids = await this.#afterFirst(last !== undefined, () => this.#o.store.select(selection, CHUNK, afterId));
      // An empty chunk still commits: nothing to do must wait for what others revoked, too.
      if (ids.length === 0 && last !== undefined) break;
      const done = await this.#afterFirst(last !== undefined, () => store.revokeChunk(ids, reason, actorOf(access)));
      if (last !== undefined && done.epoch !== last.epoch) throw unsure();
      for (const id of done.value) revoked.add(id);
      last = done;
      if (ids.length < CHUNK) break;
      afterId = ids[ids.length - 1]!;
    }
    return { ...last, value: undefined };
  }

  /** What fails after an acknowledged chunk leaves something done and something not. */
  async #afterFirst<T>(later: boolean, step: () => Promise<T>): Promise<T> {
    try {
      return await step();
    } catch (error) {
      throw later ? unsure(error) : error;
    }
  }
}

/** Earlier chunks are durable: whatever happens now, it is not "nothing". */
function unsure(cause?: unknown): AppError {
  return new AppError(
    "OUTCOME_UNKNOWN",
    "some tokens were revoked, others perhaps not; it is safe to repeat the call",
    {
      retryAfterMs: 1000,
      cause,
    },
  );
}
