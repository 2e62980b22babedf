import { expect, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import type { Access } from "../../src/management/access.ts";
import { Repeats } from "../../src/management/repeats.ts";
import { type CreateRequest, TokenManager } from "../../src/management/token-manager.ts";
import type { MintLimits } from "../../src/revocation/authority-store.ts";

/** A manager whose store tells which limits it was given. */
function manager() {
  const seen: MintLimits[] = [];
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
    reused: () => {},
    mintKid: async () => "1",
    mintSigner: async () => expect.unreachable(),
  });
  return { tokens, seen };
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
