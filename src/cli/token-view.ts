import { type Token, TokenState } from "../gen/sallyport/v1/token_admin_pb.ts";
import { annotationsOf, fromNow, nameOf, record, table, timeAndDistance } from "./output.ts";

/** Tokens for people, one a line: the hint, the state, the remaining lifetime. */
export function tokenTable(tokens: readonly Token[], now: number): string {
  return table(
    ["ID", "HINT", "PRINCIPAL", "NAME", "STATE", "EXPIRES", "LAST USED"],
    tokens.map((token) => [
      token.id,
      token.hint,
      token.principal,
      token.displayName,
      nameOf(TokenState, token.state),
      token.expireTime === undefined ? "never" : fromNow(token.expireTime, now),
      token.lastUseTime === undefined ? "never" : fromNow(token.lastUseTime, now),
    ]),
  );
}

/** One token for people, with all its known fields. */
export function tokenRecord(token: Token | undefined, now: number): string {
  if (token === undefined) return "";
  return record([
    ["id", token.id],
    ["hint", token.hint],
    ["state", nameOf(TokenState, token.state)],
    ["tenant", token.tenant],
    ["profile", token.profile],
    ["principal", token.principal],
    ["name", token.displayName],
    ["description", token.description],
    ["scopes", token.scopes.join(" ")],
    ["audiences", token.audiences.join(" ")],
    ["allowed cidrs", token.allowedCidrs.join(" ")],
    ["annotations", annotationsOf(token.annotations)],
    ["created", timeAndDistance(token.createTime, now)],
    ["created by", token.createdBy],
    ["not before", timeAndDistance(token.notBeforeTime, now)],
    ["expires", timeAndDistance(token.expireTime, now) || "never"],
    ["last used", [timeAndDistance(token.lastUseTime, now), token.lastUseAddress].filter(Boolean).join(" from ")],
    ["disabled", token.disabled ? "yes" : ""],
    ["revoked", timeAndDistance(token.revokeTime, now)],
    ["revoked by", token.revokedBy],
    ["reason", token.revokeReason],
    ["parent", token.parent],
    ["rotated from", token.rotatedFrom],
    ["rotated to", token.rotatedTo],
    ["etag", token.etag],
  ]);
}
