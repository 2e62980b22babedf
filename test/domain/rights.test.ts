import { describe, expect, test } from "vitest";
import type { Caller } from "../../src/domain/caller.ts";
import type { AppError } from "../../src/domain/errors.ts";
import type { LifetimeRule } from "../../src/domain/lifetime.ts";
import { BUILT_IN_PROFILES, type Profile } from "../../src/domain/profile.ts";
import {
  type Change,
  effectiveScopes,
  type Held,
  judgeRole,
  judgeRotation,
  judgeUpdate,
} from "../../src/domain/rights.ts";
import type { Role } from "../../src/domain/role.ts";
import { NOTHING_GIVEN } from "../../src/domain/token.ts";
import { one } from "../fuzz/pick.ts";
import { seeded } from "../http2/fixture.ts";

const NOW = 1.7e12;
const MINUTE = 60_000;
const DAY = 86_400_000;
const CREATE = "sallyport.tokens.create";
const BOT = BUILT_IN_PROFILES.find(({ name }) => name === "bot")!;

/** A token whose family began a minute ago, with a lifetime of `familyLife`. */
function held(id: string, more: Partial<Held> = {}): Held {
  const familyTime = NOW - MINUTE;
  return {
    id,
    tenant: "default",
    profile: "bot",
    principal: `bot:${id}`,
    ...NOTHING_GIVEN,
    hint: `sp_bot_1${id}`,
    kid: "1",
    format: "opaque",
    state: "ACTIVE",
    disabled: false,
    createTime: familyTime,
    createdBy: "user:admin",
    revokedBy: "",
    revokeReason: "",
    rotatedFrom: "",
    rotatedTo: "",
    parent: "",
    roleIds: [],
    roleScopes: [],
    liveTenants: [],
    lastUseAddress: "",
    useCount: 0,
    etag: "",
    tenantPositions: [],
    family: id,
    familyTime,
    familyLife: more.expireTime === undefined ? undefined : more.expireTime - familyTime,
    ...more,
  };
}

interface By {
  readonly own: Held;
  readonly now?: number;
  readonly profile?: Profile;
  readonly parent?: Held;
  readonly asked?: LifetimeRule;
  /** The caller's rights at its admission; by default those of its row. */
  readonly scopes?: readonly string[];
}

function rotation(target: Held, { own, now = NOW, profile = BOT, parent, asked, scopes = own.scopes }: By) {
  const { tenant, principal, id, hint } = own;
  const who = { tenant, principal, tokenId: id, scopes, address: "", direct: true };
  const caller: Caller = { kind: "token", provenance: `token:${hint}`, ...who };
  return judgeRotation({ caller, profile, rotationsPerDay: 0 }, { now, own }, target, parent, asked);
}

/** The reason of a refusal, or `OK`. */
function outcome(target: Held, by: By): string {
  try {
    rotation(target, by);
    return "OK";
  } catch (error) {
    return (error as AppError).reason;
  }
}

describe("a renewed token lives no longer than the lifetime of its family's first token", () => {
  const never = { never: true, maxTtl: 3650 * DAY };

  test("whatever it requests", () => {
    const own = held("a", { expireTime: NOW + MINUTE });
    expect(rotation(own, { own })).toEqual({ expire: NOW + 2 * MINUTE, familyLife: 2 * MINUTE, counted: true });
    for (const asked of [never, { ttl: DAY, maxTtl: DAY }, { expireTime: NOW + DAY, maxTtl: DAY }]) {
      expect(rotation(own, { own, asked })).toMatchObject({ expire: NOW + 2 * MINUTE, familyLife: 2 * MINUTE });
    }
    expect(rotation(own, { own, asked: { ttl: 5, maxTtl: DAY } }).expire).toBe(NOW + 5);
  });

  test("a caller with an end passes the rest of its life to the tokens that it rotates", () => {
    const own = held("maker", { scopes: [CREATE], expireTime: NOW + 3 * MINUTE });
    const bound = { expire: NOW + 3 * MINUTE, familyLife: 3 * MINUTE };
    expect(rotation(held("free"), { own })).toMatchObject(bound);
    expect(rotation(held("long", { expireTime: NOW + DAY }), { own })).toMatchObject(bound);
    const short = held("short", { expireTime: NOW + MINUTE });
    expect(rotation(short, { own })).toMatchObject({ expire: NOW + 2 * MINUTE, familyLife: 2 * MINUTE });
  });

  test("an administrator gives one token a longer life, and its family none", () => {
    const own = held("admin", { scopes: ["sallyport.admin"] });
    const target = held("b", { expireTime: NOW + MINUTE });
    const longer = rotation(target, { own, asked: { ttl: DAY, maxTtl: DAY } });
    expect(longer).toEqual({ expire: NOW + DAY, familyLife: 2 * MINUTE, counted: false });
  });

  test("a token with a ceiling is not renewed, and the ceiling counts from the first", () => {
    const profile = { ...BOT, scopeCeilings: { deploy: 10 * MINUTE } };
    const own = held("c", { scopes: ["deploy"], expireTime: NOW + 9 * MINUTE });
    expect(rotation(own, { own, profile, asked: never }).expire).toBe(NOW + 9 * MINUTE);
    const admin = held("admin", { scopes: ["sallyport.admin"] });
    const later = NOW + 4 * MINUTE;
    const rotated = rotation(own, { own: admin, profile, now: later, asked: never });
    expect(rotated.expire).toBe(own.familyTime + 10 * MINUTE);
  });

  test("over any chain of rotations", () => {
    for (let seed = 1; seed <= 300; seed++) {
      const pick = seeded(seed);
      const life = () => (pick(4) === 0 ? undefined : (1 + pick(40)) * MINUTE);
      const first = life();
      let token = held("x", { createTime: NOW, familyTime: NOW, expireTime: first && NOW + first, familyLife: first });
      let least = first ?? Number.POSITIVE_INFINITY;
      let now = NOW;
      for (let i = 0; i < 8; i++) {
        now += 1 + pick(MINUTE);
        const ttl = life();
        const asked = one(pick, [undefined, never, ttl === undefined ? never : { ttl, maxTtl: DAY }]);
        const end = life();
        const maker = held("maker", { scopes: [CREATE], expireTime: end && now + end });
        const itself = pick(2) === 0;
        const { expire, familyLife } = rotation(token, { own: itself ? token : maker, now, asked });
        const given = expire === undefined ? Number.POSITIVE_INFINITY : expire - now;
        if (itself) expect(given, `seed ${seed}`).toBeLessThanOrEqual(least);
        // If another caller rotates it and is bound, or sets a bound, all later tokens have that bound.
        else if (asked !== undefined || end !== undefined) least = Math.min(least, given);
        token = { ...token, createTime: now, expireTime: expire, familyLife };
      }
    }
  });
});

describe("another's token is rotated by a caller that may mint it", () => {
  const maker = held("maker", { scopes: [CREATE, "x"] });
  const admins = { ...BOT, mintedBy: ["admin" as const] };

  test("by the profile's minters", () => {
    const target = held("t", { scopes: ["x"] });
    expect(outcome(target, { own: maker })).toBe("OK");
    expect(outcome(target, { own: maker, profile: admins })).toBe("RIGHTS_EXCEEDED");
    const admin = held("admin", { scopes: ["sallyport.admin"] });
    expect(outcome(target, { own: admin, profile: admins })).toBe("OK");
  });

  test("by the rights in the caller's row now, not by those at its admission", () => {
    const own = held("was-admin", { scopes: [CREATE] });
    const by = { own, scopes: ["sallyport.admin", CREATE] };
    expect(outcome(held("t"), { ...by, profile: admins })).toBe("RIGHTS_EXCEEDED");
    expect(outcome(held("t", { scopes: ["x"] }), by)).toBe("RIGHTS_EXCEEDED");
  });

  test("of its own principal, only tokens that it has minted itself", () => {
    const { principal } = maker;
    expect(outcome(held("sibling", { principal }), { own: maker })).toBe("RIGHTS_EXCEEDED");
    expect(outcome(held("child", { principal, parent: maker.id }), { own: maker, parent: maker })).toBe("OK");
    const others = held("other-parent", { principal });
    expect(outcome(held("other", { principal, parent: others.id }), { own: maker, parent: others })).toBe(
      "RIGHTS_EXCEEDED",
    );
  });

  test("never a token that it replaced or that replaced it", () => {
    const successor = held("successor", { family: maker.family, principal: "bot:elsewhere" });
    expect(outcome(successor, { own: maker })).toBe("RIGHTS_EXCEEDED");
  });
});

describe("whoever widens another's token gives no more than it is good itself, as if it minted", () => {
  const end = NOW + 10 * MINUTE;
  const bounds = { audiences: ["https://a.example"], allowedCidrs: ["10.0.0.0/8"] };
  const own = held("maker", { scopes: [CREATE, "x", "y"], expireTime: end, ...bounds });
  const within = { scopes: ["x"], expireTime: end - MINUTE, ...bounds };
  const update = (target: Held, change: Change, by = own, roles?: readonly Role[], parent?: Held): string => {
    const { tenant, principal, id, hint, scopes } = by;
    const who = { tenant, principal, tokenId: id, scopes, address: "", direct: true };
    const caller: Caller = { kind: "token", provenance: `token:${hint}`, ...who };
    try {
      judgeUpdate({ caller, profile: BOT, rotationsPerDay: 0 }, { now: NOW, own: by }, target, parent, change, roles);
      return "OK";
    } catch (error) {
      return (error as AppError).reason;
    }
  };

  test("in all that the token then is, not only in what is changed", () => {
    const wider: Change[] = [{ scopes: ["x", "y"] }, { disabled: false }, { expireTime: end }];
    const beyond: Partial<Held>[] = [
      { audiences: [] },
      { audiences: ["https://a.example", "https://b.example"] },
      { allowedCidrs: [] },
      { allowedCidrs: ["10.0.0.0/8", "192.0.2.1"] },
    ];
    for (const change of wider) {
      const target = held("t", { ...within, disabled: change.disabled !== undefined });
      expect(update(target, change)).toBe("OK");
      for (const more of beyond) expect(update({ ...target, ...more }, change)).toBe("RIGHTS_EXCEEDED");
      // Of its own principal it is no different.
      expect(update({ ...target, principal: own.principal, allowedCidrs: [] }, change)).toBe("RIGHTS_EXCEEDED");
      const admin = held("admin", { scopes: ["sallyport.admin"], ...bounds });
      expect(update({ ...target, allowedCidrs: [] }, change, admin)).toBe("OK");
    }
    for (const change of [{ scopes: ["x", "y"] }, { disabled: false }]) {
      for (const expireTime of [end + 1, undefined]) {
        const target = held("t", { ...within, expireTime, disabled: change.disabled !== undefined });
        expect(update(target, change)).toBe("RIGHTS_EXCEEDED");
      }
    }
  });

  test("an administrator's token, too, if the token counts in further tenants", () => {
    const ends = { expireTime: end, ...bounds };
    const scopes = ["sallyport.admin", "x", "y"];
    const there = { tenants: ["red"], liveTenants: ["red"] };
    const admin = held("admin", { principal: "bot:ci", scopes, ...ends, ...there });
    const mine = held("t", { ...within, principal: "bot:ci", ...there });
    const operator = held("root", { ...admin, id: "root", family: "root", scopes: ["sallyport.operator"] });
    const alone = { tenants: [], liveTenants: [] };
    for (const more of [{ allowedCidrs: [] }, { audiences: [] }, { expireTime: undefined }]) {
      const target = { ...mine, ...more };
      expect(update(target, { scopes: ["x", "y"] }, admin)).toBe("RIGHTS_EXCEEDED");
      expect(update(target, { scopes: ["x", "y"] }, operator)).toBe("OK");
      expect(update({ ...target, ...alone }, { scopes: ["x", "y"] }, admin)).toBe("OK");
      expect(update({ ...target, ...alone }, { tenants: ["red"] }, admin)).toBe("RIGHTS_EXCEEDED");
    }
    for (const change of [{ noExpiry: true }, { allowedCidrs: [] }, { audiences: [] }]) {
      expect(update(mine, change, admin)).toBe("RIGHTS_EXCEEDED");
      expect(update({ ...mine, ...alone }, change, admin)).toBe("OK");
    }
    expect(update(mine, { scopes: ["x", "y"] }, admin)).toBe("OK");
    // It sees the new string, so the bounds hold for a rotation, too.
    for (const target of [mine, { ...mine, parent: "admin" }, { ...mine, family: "admin" }]) {
      expect(rotation(target, { own: admin }).expire).toBe(target.expireTime! + MINUTE);
      expect(rotation({ ...target, expireTime: undefined }, { own: admin }).expire).toBe(end);
      for (const more of [{ allowedCidrs: [] }, { audiences: [] }]) {
        expect(outcome({ ...target, ...more }, { own: admin })).toBe("RIGHTS_EXCEEDED");
      }
    }
    expect(outcome({ ...mine, tenants: [], allowedCidrs: [] }, { own: admin })).toBe("OK");
    expect(outcome({ ...mine, allowedCidrs: [] }, { own: operator })).toBe("OK");
    expect(outcome({ ...mine, principal: "bot:other" }, { own: admin })).toBe("RIGHTS_EXCEEDED");
    expect(outcome({ ...mine, tenants: ["red", "blue"] }, { own: admin })).toBe("RIGHTS_EXCEEDED");
  });

  test("only whoever may mint such a token widens it", () => {
    const session = (scopes: string[], profile: Profile, target: Held, change: Change): string => {
      const who = { tenant: "default", principal: "user:ann", scopes, address: "", direct: true };
      const caller: Caller = { kind: "session", provenance: "session:ann", ...who };
      try {
        judgeUpdate({ caller, profile, rotationsPerDay: 0 }, { now: NOW }, target, undefined, change);
        return "OK";
      } catch (error) {
        return (error as AppError).reason;
      }
    };
    const minted = (...mintedBy: Profile["mintedBy"][number][]): Profile => ({ ...BOT, mintedBy });
    const mine = held("mine", { principal: "user:ann", scopes: ["x"], expireTime: NOW + MINUTE });
    const theirs = { ...mine, principal: "user:bob" };
    const off = { ...mine, disabled: true };
    for (const change of [{ scopes: ["x", "y"] }, { expireTime: NOW + DAY }, { noExpiry: true }]) {
      expect(session(["x", "y"], minted("session"), mine, change)).toBe("OK");
      expect(session(["x", "y"], minted("admin", "creator", "token"), mine, change)).toBe("RIGHTS_EXCEEDED");
      expect(session(["x", "y", CREATE], minted("creator"), theirs, change)).toBe("OK");
      expect(session(["x", "y", CREATE], minted("session", "admin"), theirs, change)).toBe("RIGHTS_EXCEEDED");
      expect(session(["sallyport.admin"], minted("session"), theirs, change)).toBe("OK");
    }
    for (const change of [{ scopes: [] }, { expireTime: NOW + 1 }, { disabled: true }]) {
      expect(session([], minted("admin"), mine, change)).toBe("OK");
    }
    expect(session(["x"], minted("session"), off, { disabled: false })).toBe("RIGHTS_EXCEEDED");
    expect(session(["x"], minted("session"), mine, { disabled: false })).toBe("OK");
    expect(session(["x", CREATE], minted("session"), off, { disabled: false })).toBe("OK");
    expect(session(["sallyport.admin"], minted("session"), off, { disabled: false })).toBe("OK");
  });

  test("what only narrows is free", () => {
    const beyond = held("t", { scopes: ["x", "z"] });
    for (const change of [{ scopes: ["x"] }, { allowedCidrs: ["192.0.2.1"] }, { disabled: true }]) {
      expect(update(beyond, change)).toBe("OK");
    }
  });

  describe("a scope of a role is not the token's own", () => {
    const role = (id: string, ...scopes: string[]): Role => ({
      ...{ id, tenant: "default", name: id, description: "", scopes, administrative: false },
      ...{ state: "ACTIVE" as const, createTime: NOW, etag: "" },
    });
    const x = role("rol_x", "x");
    const holder = held("h", { ...within, scopes: ["y"], roles: [x.name], roleIds: [x.id], roleScopes: ["x"] });
    // A token changes itself only where it gets nothing more. Another caller that holds the scopes gives them.
    test.each<[string, Change, readonly Role[] | undefined, string]>([
      ["keeps all", { scopes: ["y"], roles: [x.name] }, [x], "OK"],
      ["drops its own scope", { scopes: [] }, undefined, "OK"],
      ["drops the role", { roles: [] }, [], "OK"],
      ["takes the role's scope as its own", { scopes: ["x", "y"] }, undefined, "RIGHTS_EXCEEDED"],
      ["takes it in place of the role", { scopes: ["x", "y"], roles: [] }, [], "RIGHTS_EXCEEDED"],
      ["takes it in place of its own", { scopes: ["x"] }, undefined, "RIGHTS_EXCEEDED"],
      ["takes a role for its own scope", { roles: [x.name, "y"] }, [x, role("rol_y", "y")], "RIGHTS_EXCEEDED"],
      ["takes a role in place of it", { scopes: [], roles: ["y"] }, [role("rol_y", "y")], "RIGHTS_EXCEEDED"],
      ["takes a role without scopes", { roles: [x.name, "no"] }, [x, role("rol_no")], "RIGHTS_EXCEEDED"],
      ["takes a role of the same name", { roles: [x.name] }, [role("rol_x2", "x")], "RIGHTS_EXCEEDED"],
    ])("a token that %s", (_, change, roles, byItself) => {
      expect(update(holder, change, holder, roles)).toBe(byItself);
      expect(update(holder, change, own, roles)).toBe("OK");
    });

    test("nor its child's, which has of it what the parent has", () => {
      const parent = held("p", { roleIds: [x.id], roleScopes: ["x"] });
      const child = held("c", { ...within, scopes: [], parent: parent.id });
      expect(update(child, { scopes: ["x"] }, own, undefined, parent)).toBe("OK");
      expect(update(child, { scopes: ["y"] }, own, undefined, parent)).toBe("RIGHTS_EXCEEDED");
      expect(effectiveScopes({ scopes: ["x"], roleScopes: [], parentScopes: [] })).toEqual([]);
    });
  });
});

describe("whoever adds scopes to a role is bound by nothing that would not bind the role", () => {
  const WRITE = ["sallyport.roles.write", "x"];
  const role = { id: "rol_r", name: "r", scopes: ["x"] };
  const told = (
    own: Held | undefined,
    of: typeof role | undefined,
    scopes: readonly string[],
    roles?: readonly string[],
  ): string => {
    try {
      const asker = { now: NOW, ...(own !== undefined && { own }), ...(roles && { roles }) };
      judgeRole(asker, of ?? { id: "rol_n", name: "n" }, of?.scopes ?? [], scopes);
      return "OK";
    } catch (error) {
      return (error as AppError).reason;
    }
  };
  const bounds: [string, Partial<Held>][] = [
    ["an expiry", { expireTime: NOW + DAY }],
    ["networks", { allowedCidrs: ["10.0.0.0/8"] }],
    ["audiences", { audiences: ["https://a.example"] }],
    ["a parent", { parent: "p" }],
  ];

  test.each(bounds)("a token with %s, unless it is an administrator's", (_, bound) => {
    const own = held("o", { scopes: WRITE, ...bound });
    expect(told(own, undefined, ["x"])).toBe("RIGHTS_EXCEEDED");
    expect(told(own, role, ["x", "y"])).toBe("RIGHTS_EXCEEDED");
    expect(told(own, role, ["x.*"])).toBe("RIGHTS_EXCEEDED");
    // What adds nothing is free.
    for (const scopes of [[], ["x"]]) expect(told(own, role, scopes)).toBe("OK");
    expect(told(own, undefined, [])).toBe("OK");
    const admin = { ...own, scopes: ["sallyport.admin"] };
    expect(told(admin, role, ["y"])).toBe("OK");
    // A child is an administrator's only while its parent is.
    expect(told({ ...admin, parent: "p", parentScopes: WRITE }, role, ["y"])).toBe("RIGHTS_EXCEEDED");
  });

  test("without bounds it may, but no token widens a role that it holds itself", () => {
    for (const scopes of [WRITE, ["sallyport.admin"]]) {
      const own = held("o", { scopes });
      expect(told(own, role, ["x", "y"])).toBe("OK");
      expect(told(own, undefined, ["x"])).toBe("OK");
      const holder = { ...own, roleIds: [role.id], roleScopes: role.scopes };
      expect(told(holder, role, ["x", "y"])).toBe("RIGHTS_EXCEEDED");
      expect(told(holder, role, [])).toBe("OK");
    }
    expect(told(undefined, role, ["x", "y"])).toBe("OK");
  });

  test("a session makes and widens no role that its groups name", () => {
    for (const of of [role, undefined]) {
      const named = of?.name ?? "n";
      expect(told(undefined, of, ["x", "y"], ["other", named])).toBe("RIGHTS_EXCEEDED");
      expect(told(undefined, of, ["x", "y"], ["other"])).toBe("OK");
      expect(told(undefined, of, [], [named])).toBe("OK");
    }
  });
});
