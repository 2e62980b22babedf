import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";

export const EPOCH = "1/i/100";

/** The TokenSnapshot of a live token at position `n`. */
export function snapshot(n: number, over: Partial<TokenSnapshot> = {}, epoch = EPOCH): TokenSnapshot {
  return {
    version: { epoch, position: n },
    id: "tok_0000000000000000000000",
    digest: "d".repeat(32),
    tenant: "acme",
    profile: "bot",
    principal: "bot:ci",
    scopes: [],
    roles: [],
    attachments: [],
    audiences: [],
    allowedCidrs: [],
    annotations: {},
    hint: "sp_bot_1abcdefgh",
    rotated: false,
    principalState: "ACTIVE",
    tenantState: "ACTIVE",
    revoked: false,
    disabled: false,
    cut: false,
    ...over,
  };
}
