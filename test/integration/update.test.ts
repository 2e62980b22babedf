import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { failure, outcome, TestSallyport } from "../support/sallyport.ts";

let sallyport: TestSallyport;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
});
afterAll(() => sallyport?.stop());

const get = async (id: string) => (await sallyport.admin.tokens.getToken({ id })).token!;
const update = (token: object, paths: string[], more: object = {}) =>
  sallyport.admin.tokens.updateToken({ token, updateMask: { paths }, noWait: true, ...more });

describe("an update of a token", () => {
  test("changes the fields of its mask, no others, and the etag", async () => {
    const { id, token } = await sallyport.createToken({
      description: "before",
      scopes: ["a"],
      annotations: { k: "v" },
    });
    const sent = {
      id,
      displayName: " after ",
      description: "ignored",
      scopes: ["ignored"],
      principal: "user:evil",
      disabled: true,
    };
    const updated = (await update(sent, ["display_name"])).token!;
    expect(updated).toEqual({ ...token, displayName: "after", etag: updated.etag, lastUseTime: updated.lastUseTime });
    expect(updated.etag).not.toBe(token.etag);
  });

  test("sets every field that can be changed", async () => {
    const { id } = await sallyport.createToken();
    const to = {
      id,
      displayName: "n",
      description: "d",
      scopes: ["s:1"],
      audiences: ["aud"],
      allowedCidrs: ["192.0.2.0/24", "2001:db8::1"],
      annotations: { a: "b" },
      disabled: true,
    };
    await update(to, [
      "display_name",
      "description",
      "scopes",
      "audiences",
      "allowed_cidrs",
      "annotations",
      "disabled",
    ]);
    expect(await get(id)).toMatchObject({ ...to, state: 4 });
    await update({ id }, [
      "description",
      "scopes",
      "audiences",
      "allowed_cidrs",
      "annotations",
      "disabled",
      "expire_time",
    ]);
    const cleared = {
      description: "",
      scopes: [],
      audiences: [],
      allowedCidrs: [],
      annotations: {},
      disabled: false,
    };
    const after = await get(id);
    expect(after).toMatchObject({ ...cleared, state: 1 });
    expect(after.expireTime).toBeUndefined();
  });

  test("is refused with an empty mask or a path that cannot be changed, and changes nothing", async () => {
    const { id, token } = await sallyport.createToken();
    for (const paths of [
      [],
      ["principal"],
      ["display_name", "tenant"],
      ["hint"],
      ["*"],
      ["displayName"],
      ["annotations.k"],
      ["__proto__"],
    ]) {
      expect(await failure(update({ id, displayName: "x" }, paths)), paths.join()).toMatchObject({
        code: "InvalidArgument",
        violations: [{ field: expect.stringContaining("update_mask") }],
      });
    }
    expect((await get(id)).displayName).toBe(token.displayName);
  });

  test("is ABORTED with an old etag, and changes nothing; of ten with the same etag, one succeeds", async () => {
    const { id, token } = await sallyport.createToken();
    const ends = await Promise.all(
      Array.from({ length: 10 }, (_, i) =>
        outcome(update({ id, displayName: `n${i}`, etag: token.etag }, ["display_name"])),
      ),
    );
    expect(ends.sort()).toEqual([...Array.from({ length: 9 }, () => "ETAG_MISMATCH"), "OK"]);
    expect((await failure(update({ id, etag: "nonsense" }, ["description"]))).code).toBe("Aborted");
    await update({ id, etag: (await get(id)).etag, description: "new" }, ["description"]);
    expect((await get(id)).description).toBe("new");
  });

  test("that narrows a token is in force everywhere at its answer", async () => {
    const { id, tokenString } = await sallyport.createToken({ scopes: ["a", "b"] });
    const asked = { requiredScopes: ["b"], audience: "x", context: { clientAddress: "198.51.100.1" } };
    expect(await sallyport.verdict(tokenString, asked)).toBe("ALLOW");
    await update({ id, scopes: ["a"] }, ["scopes"], { noWait: false });
    const lacking = await sallyport.validate(tokenString, asked);
    expect(lacking).toMatchObject({ verdict: 3, missingScopes: ["b"], token: { id, scopes: ["a"] } });
    await update({ id, audiences: ["y"] }, ["audiences"], { noWait: false });
    expect(await sallyport.verdict(tokenString, asked)).toBe("WRONG_AUDIENCE");
    await update({ id, allowedCidrs: ["10.0.0.0/8"] }, ["allowed_cidrs"], { noWait: false });
    expect(await sallyport.verdict(tokenString, asked)).toBe("ADDRESS_NOT_ALLOWED");
    expect(await sallyport.verdict(tokenString, { ...asked, context: {} })).toBe("ADDRESS_NOT_ALLOWED");
    await update({ id, disabled: true }, ["disabled"], { noWait: false });
    expect(await sallyport.verdict(tokenString, asked)).toBe("INVALID_TOKEN");
    await update({ id, disabled: false }, ["disabled"], { noWait: false });
    expect(await sallyport.verdict(tokenString, asked)).toBe("ADDRESS_NOT_ALLOWED");
  });

  test("is audited with the names of its fields, and none of their values", async () => {
    const { id } = await sallyport.createToken();
    await update({ id, description: "a-value-of-mine", scopes: ["x"] }, ["description", "scopes"]);
    const { events } = await sallyport.admin.audit.listAuditEvents({ action: "token.update", target: `token:${id}` });
    expect(events).toMatchObject([{ metadata: { fields: "description scopes" } }]);
  });
});

describe("principals", () => {
  const principals = () => sallyport.admin.principals;

  test("are created once, read, changed by mask and etag, and disabled: all their tokens are refused until they are enabled again", async () => {
    const name = await sallyport.registered("bot:life");
    expect(await outcome(principals().createPrincipal({ principal: { name } }))).toBe("PRINCIPAL_EXISTS");
    const { tokenString } = await sallyport.createToken({ profile: "bot", principal: name });
    const first = (await principals().getPrincipal({ name })).principal!;
    const updated = await principals().updatePrincipal({
      principal: { name, displayName: " CI ", owner: "user:ann", email: "ci@acme.example", state: 2, etag: first.etag },
      updateMask: { paths: ["display_name", "owner", "state"] },
    });
    expect(updated.principal).toMatchObject({ displayName: "CI", owner: "user:ann", email: "", state: 2 });
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    expect(
      await outcome(
        principals().updatePrincipal({
          principal: { name, etag: first.etag, state: 1 },
          updateMask: { paths: ["state"] },
        }),
      ),
    ).toBe("ETAG_MISMATCH");
    await principals().updatePrincipal({ principal: { name, state: 1 }, updateMask: { paths: ["state"] } });
    expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  });

  test("that are deleted stay known as DELETED; their name can be created again, and the old tokens stay dead", async () => {
    const name = await sallyport.registered("bot:gone");
    const { tokenString, id } = await sallyport.createToken({ profile: "bot", principal: name });
    const deleted = await principals().deletePrincipal({ name });
    expect(deleted.principal?.state).toBe(3);
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    expect((await principals().getPrincipal({ name })).principal?.state).toBe(3);
    expect((await principals().listPrincipals({ pageSize: 500 })).principals.map((one) => one.name)).not.toContain(
      name,
    );
    expect(
      (await principals().listPrincipals({ pageSize: 500, state: 3 })).principals.map((one) => one.name),
    ).toContain(name);
    // A repeat waits and gets the answer of the first call. A principal that never existed is not found.
    const again = await principals().deletePrincipal({ name });
    expect(again).toMatchObject({ principal: { name, state: 3 }, effect: { position: expect.anything() } });
    expect(await outcome(principals().deletePrincipal({ name: "bot:never" }))).toBe("PRINCIPAL_NOT_FOUND");
    await sallyport.registered(name);
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    expect((await sallyport.admin.tokens.getToken({ id })).token?.state).toBe(5);
    const fresh = await sallyport.createToken({ profile: "bot", principal: name });
    expect(await sallyport.verdict(fresh.tokenString)).toBe("ALLOW");
  });

  test("cannot be set to DELETED, nor have a name other than type:id", async () => {
    const name = await sallyport.registered("bot:set");
    expect(
      await failure(principals().updatePrincipal({ principal: { name, state: 3 }, updateMask: { paths: ["state"] } })),
    ).toMatchObject({ violations: [{ field: "principal.state" }] });
    for (const bad of ["bot", "bot:", "robot:x", "bot:a b", "bot:ü", `bot:${"x".repeat(129)}`, "BOT:x", "bot:x\n"]) {
      expect(
        (await failure(principals().createPrincipal({ principal: { name: bad } }))).violations[0]?.field,
        bad,
      ).toBe("principal.name");
    }
    expect(await outcome(principals().createPrincipal({ principal: { name: `bot:${"x".repeat(128)}` } }))).toBe("OK");
  });
});

describe("tenants", () => {
  test("are created once, changed by mask and etag, and suspended: all their tokens are refused, and none is created", async () => {
    const { tenants } = sallyport.admin;
    const made = (await tenants.createTenant({ tenant: { id: "acme", displayName: "Acme" } })).tenant!;
    expect(await outcome(tenants.createTenant({ tenant: { id: "acme" } }))).toBe("TENANT_EXISTS");
    const { tokenString } = await sallyport.createToken({ tenant: "acme" });
    expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
    const suspended = await tenants.updateTenant({
      tenant: { id: "acme", state: 2, displayName: "ignored", etag: made.etag },
      updateMask: { paths: ["state"] },
    });
    expect(suspended.tenant).toMatchObject({ state: 2, displayName: "Acme" });
    expect(await sallyport.verdict(tokenString)).toBe("INVALID_TOKEN");
    expect(await failure(sallyport.createToken({ tenant: "acme" }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "TENANT_SUSPENDED",
    });
    expect(
      await outcome(sallyport.admin.principals.createPrincipal({ principal: { tenant: "acme", name: "bot:x" } })),
    ).toBe("TENANT_SUSPENDED");
    await tenants.updateTenant({ tenant: { id: "acme", state: 1 }, updateMask: { paths: ["state"] } });
    expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  });

  test("have ids of a letter and up to 62 of a-z 0-9 -", async () => {
    const create = (id: string) => sallyport.admin.tenants.createTenant({ tenant: { id } });
    for (const bad of ["", "Acme", "1a", "-a", "a_b", "a.b", "ü", "a\n"]) {
      expect((await failure(create(bad))).violations[0]?.field, bad).toBe("tenant.id");
    }
    expect(await outcome(create(`a${"0".repeat(62)}`))).toBe("OK");
  });
});
