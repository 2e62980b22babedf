import { randomBytes } from "node:crypto";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { newRoleId, type Role } from "../../src/domain/role.ts";
import { type Changeable, type Given, givenOf } from "../../src/domain/token.ts";
import { PostgresAuthorityStore } from "../../src/postgres/authority-store.ts";
import { Postgres } from "../../src/postgres/pool.ts";
import { HELD_COLUMNS, heldOf, type TokenRow, tokenOf } from "../../src/postgres/rows.ts";
import { byHand, makeTokens, migrated, tokenId } from "./migrated.ts";

const ADMIN = { actor: "user:admin", address: "192.0.2.1", requestId: "r" };
const HOUR = { ttl: 3_600_000, maxTtl: 86_400_000 };
const NOBODY = { callerScopes: [] };
const UNLIMITED = { address: "", perAddressPerHour: 0, perPrincipalPerDay: 0, maxLive: 0 };

/** No field has its column's default here but the tenants, which exclude roles, and no two have the same value. */
const GIVEN: Given = {
  tenant: "default",
  profile: "bot",
  principal: "bot:ci",
  displayName: "a name",
  description: "a text",
  scopes: ["a", "b"],
  roles: ["deployer"],
  tenants: [],
  audiences: ["c"],
  allowedCidrs: ["192.0.2.0/24"],
  annotations: { d: "e" },
};

let url: string;
let store: PostgresAuthorityStore;
const roles = new Map<string, Role>();
beforeEach(async () => {
  const database = await migrated();
  onTestFinished(() => database.drop());
  url = database.url;
  const db = new Postgres({ url, maxConnections: 2, applicationName: "sallyport-test", onTrouble: () => {} });
  onTestFinished(() => db.close());
  store = new PostgresAuthorityStore(db);
  await store.createTenant({ id: "blue", displayName: "", state: "ACTIVE", annotations: {} }, NOBODY, ADMIN);
  for (const name of ["deployer", "reader"]) {
    const role = { id: newRoleId(), tenant: "default", name, description: "", scopes: [`of.${name}`] };
    const made = await store.createRole({ ...role, administrative: false }, NOBODY, ADMIN);
    if (!(made.value instanceof AppError)) roles.set(name, made.value);
  }
});

const fresh = () => ({
  id: `tok_${randomBytes(11).toString("hex")}`,
  digest: randomBytes(32).toString("latin1"),
  kid: "7",
  hint: `sp_bot_7${randomBytes(4).toString("hex")}`,
  createdBy: "token:x",
});

async function created() {
  const token = { ...GIVEN, ...fresh() };
  const lifetime = { ...HOUR, notBeforeTime: Date.now() + 60_000 };
  const made = await store.createToken(
    token,
    lifetime,
    { callerScopes: [], child: false, mustExist: false },
    UNLIMITED,
    ADMIN,
  );
  return { token: made.token, asked: token, lifetime };
}

test("every field that a token is given comes back from its row", async () => {
  const { token, asked, lifetime } = await created();
  const { digest, ...shown } = asked;
  expect(token).toMatchObject({ ...shown, notBeforeTime: lifetime.notBeforeTime, etag: "1", state: "NOT_YET_VALID" });
  expect(token).toMatchObject({ format: "opaque", useCount: 0 });
  expect(token.expireTime).toBe(token.createTime + HOUR.ttl);
  const sql = await byHand(url);
  const { rows } = await sql.query("select digest, family from sallyport.tokens where id = $1", [token.id]);
  expect(rows[0].digest.toString("latin1")).toBe(digest);
  expect(rows[0].family).toBe(token.id);
});

test("a rotation copies every given field, and only its own fields are new", async () => {
  const { token } = await created();
  const next = fresh();
  const { value } = await store.rotateToken(token.id, next, undefined, 60_000, NOBODY, ADMIN);
  if (!("kind" in value)) throw value;
  const { digest, ...shown } = next;
  expect(givenOf(value.token)).toEqual(GIVEN);
  expect(value.token).toMatchObject({ ...shown, rotatedFrom: token.id, notBeforeTime: token.notBeforeTime });
  expect(value.previous).toMatchObject({ ...givenOf(token), id: token.id, rotatedTo: next.id });
});

test("every field that may change can change alone", async () => {
  const { token } = await created();
  const changes: Required<Changeable> = {
    displayName: "another name",
    description: "another text",
    scopes: ["f"],
    // A token holds roles, or has further tenants.
    roles: [],
    tenants: ["blue"],
    audiences: ["g", "h"],
    allowedCidrs: [],
    annotations: {},
    expireTime: token.createTime + 1_800_000,
    disabled: true,
  };
  let before = token;
  for (const [field, value] of Object.entries(changes)) {
    const change = { [field]: value };
    const after = await store.updateToken(token.id, change, before.etag, { maxTtl: HOUR.maxTtl }, NOBODY, ADMIN);
    const etag = String(Number(before.etag) + 1);
    const state = field === "disabled" ? "DISABLED" : before.state;
    const held = field === "roles" ? { roleIds: [], roleScopes: [] } : {};
    const live = field === "tenants" ? { liveTenants: ["blue"] } : {};
    expect(after.value, field).toEqual({ ...before, ...change, ...held, ...live, etag, state });
    before = after.value;
  }
});

test("a row from before families were stored is the first of its family", async () => {
  const sql = await byHand(url);
  await makeTokens(sql, 1);
  const { rows } = await sql.query<TokenRow>(`select ${HELD_COLUMNS} from sallyport.token_view v where id = $1`, [
    tokenId(1),
  ]);
  const token = tokenOf(rows[0]!);
  expect(heldOf(rows[0]!)).toEqual({
    ...token,
    family: tokenId(1),
    tenantPositions: [],
    familyTime: token.createTime,
    familyLife: undefined,
  });
});

test("the view has every column of a token's row, by name", async () => {
  const sql = await byHand(url);
  const columns = async (relation: string) => {
    const { rows } = await sql.query<{ name: string }>(
      "select attname as name from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped",
      [relation],
    );
    return rows.map(({ name }) => name).sort();
  };
  const added = [
    "last_use_address",
    "last_use_time",
    "live_tenants",
    "parent_scopes",
    "role_names",
    "role_scopes",
    "state",
    "use_count",
  ];
  expect(await columns("sallyport.token_view")).toEqual([...(await columns("sallyport.tokens")), ...added].sort());
});
