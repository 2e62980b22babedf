import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import { AppError } from "../../src/domain/errors.ts";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import type { Access } from "../../src/management/access.ts";
import { Repeats } from "../../src/management/repeats.ts";
import { type CreateRequest, TokenManager, type TokenManagerOptions } from "../../src/management/token-manager.ts";
import type { MintLimits } from "../../src/revocation/authority-store.ts";

/** A manager whose store tells which limits it was given. */
function manager(over: Partial<TokenManagerOptions> = {}) {
  const seen: MintLimits[] = [];
  const reused: string[] = [];
  const { current, keys } = freshKeyring();
  const keyring = new Keyring(current, keys);
  const issuer = {
    createToken: async (_token: unknown, _lifetime: unknown, _guard: unknown, limits: MintLimits) => {
      seen.push(limits);
      return { kind: "created", token: {} };
    },
  };
  const tokens = new TokenManager({
    store: {} as never,
    repeats: new Repeats({ clock: { mono: () => 0 }, timers: {} as never, audit: {} as never, events: {} as never }),
    authority: {} as never,
    issuer: issuer as never,
    keyring,
    profiles: new Map(BUILT_IN_PROFILES.map((profile) => [profile.name, profile])),
    registeredTypes: ["bot"],
    mintPerAddressPerHour: 10,
    mintPerPrincipalPerDay: 100,
    rotatePerPrincipalPerDay: 100,
    ipv6PrefixLength: 64,
    reused: (id) => reused.push(id),
    mintKid: async () => "1",
    mintSigner: async () => expect.unreachable(),
    ...over,
  });
  return { tokens, seen, reused };
}

const request: CreateRequest = {
  tenant: "",
  profile: "pat",
  principal: "user:ann",
  ...NOTHING_GIVEN,
  displayName: "x",
  lifetime: {},
  requestId: "",
  body: new Uint8Array(),
};
const access = (over: Partial<Caller>): Access => ({
  caller: {
    kind: "token",
    provenance: "token:sp_adm_1x",
    tenant: "default",
    principal: "user:x",
    scopes: ["sallyport.tokens.create"],
    address: "203.0.113.7",
    direct: false,
    ...over,
  },
  reach: "tenant",
  requestId: "r",
});

test("mints are counted by client address, except for loopback, break-glass and operators", async () => {
  const { tokens, seen } = manager();
  const counted = { address: "203.0.113.7", perAddressPerHour: 10 };
  const free = { address: "", perAddressPerHour: 0 };
  for (const [caller, expected] of [
    [{}, counted],
    [{ scopes: ["sallyport.admin"] }, counted],
    [{ address: "2001:db8:0:1::7" }, { address: "2001:db8:0:1:0:0:0:0/64", perAddressPerHour: 10 }],
    [{ address: "::ffff:203.0.113.7" }, counted],
    [{ direct: true }, free],
    [{ kind: "break-glass" as const }, free],
    [{ scopes: ["sallyport.operator"] }, free],
  ] as const) {
    await tokens.create(access(caller as Partial<Caller>), request);
    expect(seen.pop(), JSON.stringify(caller)).toMatchObject({ ...expected, perPrincipalPerDay: 100, maxLive: 1000 });
  }
});

describe("a repeat of a rotation that ended its caller", () => {
  const id = `tok_${"0".repeat(22)}`;
  const old = {
    id,
    tenant: "default",
    principal: "user:x",
    profile: "adm",
    tenants: [],
    rotatedTo: `tok_${"1".repeat(22)}`,
  };
  const adm = BUILT_IN_PROFILES.find(({ name }) => name === "adm")!;
  const rotate = async (profile: Partial<typeof adm>, over: Partial<TokenManagerOptions>, asked = id) => {
    const { tokens, reused } = manager({
      store: { get: async () => old } as never,
      profiles: new Map([["adm", { ...adm, ...profile }]]),
      ...over,
    });
    const request = {
      id: asked,
      overlap: 0,
      lifetime: {},
      requestId: randomUUID(),
      body: new Uint8Array(),
      noWait: true,
    };
    const by = { ...access({ tokenId: id, ended: true }), reach: "own" as const };
    const refused: unknown = await tokens.rotate(by, request).catch((error: unknown) => error);
    return [(refused as AppError).reason, reused];
  };
  const refusing = (reason: "NO_SIGNING_KEY" | "INTERNAL" | "TOKEN_ROTATED") => ({
    mintSigner: async () => {
      throw new AppError(reason, "x");
    },
  });

  test("is no reuse where this instance lost the key to answer it, or its profile changed in between", async () => {
    for (const reason of ["NO_SIGNING_KEY", "INTERNAL"] as const) {
      expect(await rotate({ format: "jwt" }, refusing(reason))).toEqual([reason, []]);
    }
    expect(await rotate({ format: "jwt", alg: "ES256" }, {})).toEqual(["INVALID_FIELD", []]);
    expect(await rotate({}, { profiles: new Map() })).toEqual(["INVALID_FIELD", []]);
  });

  test("is a reuse where it is refused for itself, or names another token", async () => {
    expect(await rotate({ format: "jwt" }, refusing("TOKEN_ROTATED"))).toEqual(["CALLER_UNAUTHENTICATED", [id]]);
    const other = { store: { get: async () => ({ ...old, id: old.rotatedTo, profile: "gone" }) } as never };
    expect(await rotate({ format: "jwt", alg: "ES256" }, other)).toEqual(["CALLER_UNAUTHENTICATED", [id]]);
  });
});
