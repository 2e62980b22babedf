import { toBinary } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { invalidField } from "../domain/errors.ts";
import { CHANGEABLE_FIELDS } from "../domain/token.ts";
import {
  type CreateTokenRequest,
  CreateTokenRequestSchema,
  type ListTokensRequest,
  type RotateTokenRequest,
  RotateTokenRequestSchema,
  type Token,
  type TokenAdmin,
  TokenSchema,
} from "../gen/sallyport/v1/token_admin_pb.ts";
import type { BulkRevoke } from "../management/bulk-revoke.ts";
import type { AskedLifetime, TokenManager } from "../management/token-manager.ts";
import type { TokenChange } from "../revocation/authority-store.ts";
import { accessOf, maskOf, page, pageSize } from "../rpc/call.ts";
import {
  attachedMessage,
  durationMillis,
  effectMessage,
  given,
  millis,
  tokenMessage,
  tokenState,
} from "../rpc/convert.ts";
import type { PageTokens } from "./page-token.ts";

/** The paths that an update mask may name. */
const UPDATABLE = CHANGEABLE_FIELDS.map((field) => TokenSchema.field[field].name);

/** The warning beside every token string. */
const SHOWN_ONCE = "The token string is shown once: it is not stored and cannot be recovered.";

export interface TokenAdminDeps {
  readonly tokens: TokenManager;
  readonly bulk: BulkRevoke;
  readonly pages: PageTokens;
}

/** TokenAdmin: converts the request, calls the manager, converts the answer. */
export function tokenAdmin({ tokens, bulk, pages }: TokenAdminDeps): ServiceImpl<typeof TokenAdmin> {
  return {
    async createToken(request, context) {
      const { token, tokenString } = await tokens.create(accessOf(context), {
        ...request,
        lifetime: lifetimeOf(request.lifetime),
        notBeforeTime: millis("not_before_time", request.notBeforeTime),
        body: canonical(request),
      });
      return { token: tokenMessage(token), tokenString: tokenString.reveal(), warning: SHOWN_ONCE };
    },

    async getToken(request, context) {
      return { token: tokenMessage(await tokens.get(accessOf(context), request.id)) };
    },

    async listTokens(request, context) {
      const access = accessOf(context);
      const size = pageSize(request.pageSize);
      const binding = [context.method.name, access.caller.provenance, access.caller.tenant, ...filterText(request)];
      const filter = {
        tenant: request.tenant,
        principal: given(request.principal),
        profile: given(request.profile),
        state: tokenState(request.state),
        hint: given(request.hint),
        createdAfter: millis("created_after", request.createdAfter),
        createdBefore: millis("created_before", request.createdBefore),
        lastUsedBefore: millis("last_used_before", request.lastUsedBefore),
        expiresBefore: millis("expires_before", request.expiresBefore),
        noExpiry: request.noExpiry || undefined,
        states: some(request.states.flatMap((state) => tokenState(state) ?? [])),
        ids: some(request.ids),
        familyOf: given(request.familyOf),
        parent: given(request.parent),
        createdBy: given(request.createdBy),
        displayNamePrefix: given(request.displayNamePrefix),
        role: given(request.role),
        attached: request.attached || undefined,
      };
      const part = await tokens.list(access, filter, size, pages.open(request.pageToken, binding));
      const { items, next } = await page(
        part,
        TokenSchema,
        request.attached ? attachedMessage : tokenMessage,
        ({ createTime, id }) => ({
          time: createTime,
          key: id,
        }),
      );
      return { tokens: items, nextPageToken: pages.issue(next, binding) };
    },

    async updateToken(request, context) {
      const asked = request.token!;
      const mask = maskOf(request.updateMask?.paths, UPDATABLE);
      const change = changeOf(asked, mask);
      const done = await tokens.update(accessOf(context), asked.id, change, asked.etag, request.noWait);
      return { token: tokenMessage(done.token), effect: effectMessage(done.effect) };
    },

    async revokeToken(request, context) {
      const access = accessOf(context);
      const { target } = request;
      if (target.case === undefined) throw invalidField("target", "must have id or token_string");
      const token =
        target.case === "id" ? await tokens.get(access, target.value) : await tokens.byString(access, target.value);
      const done = await tokens.revoke(access, token, request.family, request.reason, request.noWait);
      return { token: tokenMessage(done.token), effect: effectMessage(done.effect) };
    },

    async revokeTokens(request, context) {
      const done = await bulk.run(accessOf(context), {
        ...request,
        createdBefore: millis("created_before", request.createdBefore),
        lastUsedBefore: millis("last_used_before", request.lastUsedBefore),
        expiresAfter: millis("expires_after", request.expiresAfter),
      });
      return {
        revokedCount: done.revokedCount,
        matchedIds: [...done.matchedIds],
        effect: done.effect && effectMessage(done.effect),
      };
    },

    async detachTenant(request, context) {
      const effect = await tokens.detach(accessOf(context), request.tenant, request.id, request.noWait);
      return { effect: effectMessage(effect) };
    },

    async rotateToken(request, context) {
      const done = await tokens.rotate(accessOf(context), {
        ...request,
        overlap: durationMillis("overlap", request.overlap) ?? 0,
        lifetime: lifetimeOf(request.lifetime),
        body: toBinary(RotateTokenRequestSchema, request),
      });
      return {
        token: tokenMessage(done.token),
        tokenString: done.tokenString.reveal(),
        previous: tokenMessage(done.previous),
        effect: effectMessage(done.effect),
        warning: SHOWN_ONCE,
      };
    },
  };
}

/** The request in canonical form, because clients may send maps in any order, also when they repeat. */
function canonical(request: CreateTokenRequest): Uint8Array {
  const annotations = Object.entries(request.annotations).sort(([a], [b]) => (a < b ? -1 : 1));
  return toBinary(CreateTokenRequestSchema, { ...request, annotations: Object.fromEntries(annotations) });
}

function lifetimeOf(of: CreateTokenRequest["lifetime"] | RotateTokenRequest["lifetime"]): AskedLifetime {
  switch (of.case) {
    case "ttl":
      return { ttl: durationMillis("ttl", of.value) };
    case "expireTime":
      return { expireTime: millis("expire_time", of.value) };
    case "noExpiry":
      return { noExpiry: of.value };
    default:
      return {};
  }
}

/** A mask that names an expire_time, beside a token without one, asks for no end. */
function changeOf(asked: Token, mask: ReadonlySet<string>): TokenChange {
  const values = { ...asked, expireTime: millis("token.expire_time", asked.expireTime) };
  const named = CHANGEABLE_FIELDS.filter((field) => mask.has(TokenSchema.field[field].name));
  const given = named.filter((field) => values[field] !== undefined);
  const change: TokenChange = Object.fromEntries(given.map((field) => [field, values[field]]));
  return named.includes("expireTime") && values.expireTime === undefined ? { ...change, noExpiry: true } : change;
}

/** The filters that a page token is bound to, in a form in which no two look alike. */
function filterText(of: ListTokensRequest): string[] {
  const time = (at: { seconds: bigint; nanos: number } | undefined) => (at ? `${at.seconds}.${at.nanos}` : "");
  return [
    of.tenant,
    of.principal,
    of.profile,
    String(of.state),
    of.hint,
    time(of.createdAfter),
    time(of.createdBefore),
    time(of.lastUsedBefore),
    time(of.expiresBefore),
    String(of.noExpiry),
    of.states.join(" "),
    of.ids.join(" "),
    of.familyOf,
    of.parent,
    of.createdBy,
    of.displayNamePrefix,
    of.role,
    String(of.attached),
  ];
}

/** A list filter; undefined for an empty one, which matches everything. */
function some<T>(values: readonly T[]): readonly T[] | undefined {
  return values.length === 0 ? undefined : values;
}
