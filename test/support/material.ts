import type { Material } from "../../src/domain/material.ts";

export const EPOCH = "1/i/100";

/** Material of a live token as of position `n`. */
export function material(n: number, over: Partial<Material> = {}, epoch = EPOCH): Material {
  return {
    label: { epoch, n },
    id: "tok_0000000000000000000000",
    digest: "d".repeat(32),
    tenant: "acme",
    profile: "bot",
    principal: "bot:ci",
    scopes: [],
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
