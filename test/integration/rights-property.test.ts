import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { networksWithin } from "../../src/domain/networks.ts";
import { withinParent } from "../../src/domain/rights.ts";
import { covers } from "../../src/domain/scope.ts";
import { outcome, seconds, TestSallyport } from "../support/sallyport.ts";

/*
 * Callers of every kind except administrators make every authenticated call, with every field that could give them
 * more, alone and beside another call. In every run, no string that a caller ends with, its own included, can do more
 * than the caller's rights, and none outlives its bound.
 */

const CREATE = "sallyport.tokens.create";
const CAP = 12;
const LIFE = 600_000;
const NETWORKS = ["127.0.0.0/8"];

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start({
    config: { profiles: { bot: { max_live_per_principal: CAP } } },
  });
});
afterAll(() => sallyport?.stop());

/** mulberry32 */
function randomOf(seed: number) {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const pick = <T>(of: readonly T[]): T => of[Math.floor(next() * of.length)]!;
  return { chance: (p: number) => next() < p, pick, some: <T>(of: readonly T[]) => of.filter(() => next() < 0.4) };
}

interface Row {
  readonly id: string;
  readonly scopes: string[];
  readonly parent_scopes: string[] | null;
  readonly allowed_cidrs: string[];
  readonly disabled: boolean;
  readonly ends: number;
  readonly state: string;
}
const rowsOf = (ids: readonly string[]) =>
  sallyport.sql<Row>(
    `select v.id, v.scopes, q.scopes as parent_scopes, v.allowed_cidrs, v.disabled, v.state,
       coalesce(extract(epoch from v.expire_time) * 1000, 'Infinity')::float8 as ends
     from sallyport.token_view v left join sallyport.tokens q on q.id = v.parent_id where v.id = any($1)`,
    [ids],
  );

type Made = { readonly id: string; readonly tokenString: string };

/** A separate tenant for each run: the given rights, and the objects that must not change. */
async function scene(seed: number, kind: string) {
  const tenant = `t${seed}`;
  await sallyport.admin.tenants.createTenant({ tenant: { id: tenant } });
  for (const name of ["bot:me", "bot:other"]) await sallyport.registered(name, tenant);
  const make = (principal: string, scopes: string[], more: object = {}, by = sallyport.admin) =>
    sallyport.createToken({ tenant, profile: "bot", principal, displayName: "x", scopes, ...more }, by);
  const bound = { lifetime: { case: "ttl", value: seconds(LIFE / 1000) }, allowedCidrs: NETWORKS };
  const scopes = {
    "a bot without permissions": ["repo:read"],
    "a bot that may create": [CREATE, "repo:read"],
    "a bot that may all with tokens": ["sallyport.tokens.*", "repo:read"],
    "a child": [CREATE, "repo:read"],
    "a person's token": [CREATE, "repo:read"],
    "a manager of principals": [
      "sallyport.tokens.*",
      "sallyport.principals.write",
      "sallyport.audit.read",
      "repo:read",
    ],
  }[kind]!;
  const parent = kind === "a child" ? await make("bot:me", scopes, bound) : undefined;
  const more = { ...bound, ...(kind === "a person's token" && { profile: "pat" }) };
  const profile = kind === "a manager of principals" ? { profile: "adm" } : {};
  const principal = kind === "a person's token" ? "user:me" : "bot:me";
  const me = await make(principal, scopes, { ...more, ...profile }, parent && sallyport.as(parent.tokenString, "grpc"));
  const sibling = await make(principal, ["repo:read"], {
    ...(principal === "user:me" && { profile: "pat" }),
    lifetime: { case: "ttl", value: seconds(60) },
    allowedCidrs: NETWORKS,
  });
  const big = await make("bot:other", ["deploy", "repo:*"], { lifetime: { case: "noExpiry", value: true } });
  const off = await make("user:op", ["sallyport.operator"], { profile: "adm", allowedCidrs: ["192.0.2.1"] });
  await sallyport.admin.tokens.updateToken({
    token: { id: off.id, disabled: true },
    updateMask: { paths: ["disabled"] },
    noWait: true,
  });
  const operator = await make("user:op", ["sallyport.operator"], { profile: "adm" });
  const admin = await make("user:ad", ["sallyport.admin"], { profile: "adm" });
  return { tenant, principal, scopes, parent, me, sibling, big, off, operator, admin };
}

const KINDS = [
  "a bot without permissions",
  "a bot that may create",
  "a bot that may all with tokens",
  "a child",
  "a person's token",
  "a manager of principals",
];

test.each(KINDS.flatMap((kind, i) => [1, 2, 3].map((n) => [kind, 100 * (i + 1) + n] as const)))(
  "%s ends with no more than it was given (seed %i)",
  async (kind, seed) => {
    const random = randomOf(seed);
    const given = await scene(seed, kind);
    const { me, sibling, big, off, operator, admin, parent, principal } = given;
    const strings: Made[] = [me];
    const targets = [me, sibling, big, off, operator, admin, ...(parent ? [parent] : [])].map(({ id }) => id);
    const lifetimes = () =>
      random.pick([
        { case: undefined },
        { case: "noExpiry" as const, value: true },
        { case: "ttl" as const, value: seconds(86_400) },
        { case: "expireTime" as const, value: timestampFromMs(Date.now() + 30 * 86_400_000) },
      ]);
    const scopes = () => random.some([CREATE, "repo:read", "repo:*", "deploy", "bootstrap", "sallyport.admin"]);
    const cidrs = () => random.pick([[], ["0.0.0.0/0"], ["127.0.0.1"], ["::/0"]]);
    const target = () => random.pick([...targets, ...strings.map(({ id }) => id)]);
    const keep = (made: { token?: { id: string }; tokenString: string }) =>
      void strings.push({ id: made.token!.id, tokenString: made.tokenString });
    const by = () => sallyport.as(random.pick(strings).tokenString, "grpc");
    const calls: Record<string, () => Promise<unknown>> = {
      create: () =>
        by()
          .tokens.createToken({
            profile: random.pick(["bot", "bot", "bot", "pat", "adm"]),
            principal: random.pick([principal, principal, "bot:other", "user:me", "user:friend", "user:op"]),
            displayName: "x",
            scopes: scopes(),
            allowedCidrs: cidrs(),
            lifetime: lifetimes(),
          })
          .then(keep),
      rotate: () =>
        by()
          .tokens.rotateToken({
            id: target(),
            overlap: seconds(random.pick([0, 0, 3600])),
            lifetime: lifetimes(),
            noWait: true,
          })
          .then(keep),
      update: () => {
        const paths = random.some(["scopes", "allowed_cidrs", "expire_time", "disabled", "audiences"]);
        const token = {
          id: target(),
          scopes: scopes(),
          allowedCidrs: cidrs(),
          ...(random.chance(0.5) && { expireTime: timestampFromMs(Date.now() + 40 * 86_400_000) }),
        };
        const mask = paths.length === 0 ? ["scopes"] : paths;
        return by().tokens.updateToken({ token, updateMask: { paths: mask }, noWait: true });
      },
      end: () => {
        const { id } = random.pick([off, operator, admin]);
        const { tokens, principals } = by();
        const name = random.pick(["user:op", "user:ad"]);
        return random.pick([
          () => tokens.revokeToken({ target: { case: "id", value: id }, noWait: true }),
          () => tokens.revokeToken({ target: { case: "id", value: id }, family: true, noWait: true }),
          () => tokens.revokeTokens({ ids: [id, me.id], noWait: true }),
          () => tokens.revokeTokens({ principal: name, noWait: true }),
          () => tokens.revokeTokens({ tenant: given.tenant, profile: "adm", noWait: true }),
          () => principals.deletePrincipal({ name, noWait: true }),
          () =>
            principals.updatePrincipal({
              principal: { name, state: 2 },
              updateMask: { paths: ["state"] },
              noWait: true,
            }),
        ])();
      },
      read: () => by().tokens.listTokens({}),
    };
    // The changes that an administrator makes meanwhile, to tokens whose string the caller could get.
    const beside = () => {
      const token = { id: random.pick([sibling.id, big.id]), scopes: ["repo:read", "sallyport.tokens.read"] };
      return sallyport.admin.tokens.updateToken({ token, updateMask: { paths: ["scopes"] }, noWait: true });
    };
    const names = ["create", "create", "rotate", "rotate", "rotate", "update", "update", "update", "end", "read"];
    for (let step = 0; step < 14; step++) {
      const one = random.pick(names);
      const together = [outcome(calls[one]!())];
      if (random.chance(0.5)) together.push(outcome(calls[random.pick([one, "update", "rotate"])]!()));
      if (random.chance(0.2)) together.push(outcome(beside()));
      await Promise.all(together);
    }

    const now = Date.now();
    const held = await rowsOf(strings.map(({ id }) => id));
    for (const row of held) {
      const live = withinParent(row.scopes, row.parent_scopes ?? undefined);
      for (const scope of live)
        expect(
          given.scopes.some((own) => covers(own, scope)),
          `${scope} of ${row.id}`,
        ).toBe(true);
      expect(networksWithin(row.allowed_cidrs, NETWORKS), `${row.allowed_cidrs} of ${row.id}`).toBe(true);
      expect(row.ends, `end of ${row.id}`).toBeLessThanOrEqual(now + LIFE);
    }
    // Objects with more rights than the caller are unchanged, and disabled ones are still disabled.
    const [offNow] = await rowsOf([off.id]);
    expect(offNow).toMatchObject({ disabled: true, allowed_cidrs: ["192.0.2.1"], state: "DISABLED" });
    for (const { tokenString } of [operator, admin]) expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
    const [live] = await sallyport.sql<{ n: number }>(
      `select count(*)::int as n from sallyport.token_view
       where tenant = $1 and principal = 'bot:me' and profile = 'bot' and state = 'ACTIVE'`,
      [given.tenant],
    );
    expect(live!.n).toBeLessThanOrEqual(CAP);
    // The end of the caller's token and its descendants is the end of all its rights.
    const root = parent ?? me;
    await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: root.id }, family: true });
    for (const { token } of [root, me]) {
      await sallyport.admin.tokens.revokeTokens({
        tenant: given.tenant,
        createdBy: `token:${token.hint}`,
        descendants: true,
      });
    }
    const { responses } = await sallyport.validator.batchValidateTokens({
      requests: strings.map(({ tokenString }) => ({ tokenString, context: { clientAddress: "127.0.0.1" } })),
    });
    expect(responses.map(({ verdict }) => verdict)).toEqual(strings.map(() => 2));
  },
  60_000,
);
