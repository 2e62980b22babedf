import type { ServiceImpl } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { type CreateRoleRequest, RoleAdmin, type UpdateRoleRequest } from "../../src/gen/sallyport/v1/role_admin_pb.ts";
import { cli, peer } from "./peer.ts";

const effect = { mode: EffectMode.ACCEPTED, position: 9n, effectiveBy: { seconds: 1_800_000_000n, nanos: 0 } };

async function against(impl: Partial<ServiceImpl<typeof RoleAdmin>>, argv: string[]) {
  await using listener = await peer((router) => router.service(RoleAdmin, impl));
  return { ...(await cli(["roles", ...argv, "--address", listener.address])), calls: listener.headers.length };
}

describe("roles", () => {
  it("create, get and list send the request and show the answer", async () => {
    let sent: CreateRoleRequest | undefined;
    const createRole = (request: CreateRoleRequest) => {
      sent = request;
      return { role: request.role };
    };
    const flags = ["--scope", "deploy", "--scope", "repo:*", "--description", "D", "--administrative"];
    const made = await against({ createRole }, ["create", "deployer", "--tenant", "acme", ...flags]);
    const fields = { name: "deployer", tenant: "acme", scopes: ["deploy", "repo:*"], description: "D" };
    expect(sent?.role).toMatchObject({ ...fields, administrative: true });
    expect(made.out).toMatch(
      /^role +deployer\ntenant +acme\ndescription +D\nscopes +deploy repo:\*\nadministrative +yes/,
    );
    const got = await against({ getRole: ({ name }) => ({ role: { name } }) }, ["get", "deployer", "--json"]);
    expect(JSON.parse(got.out)).toMatchObject({ role: { name: "deployer", administrative: false } });
    const listRoles: ServiceImpl<typeof RoleAdmin>["listRoles"] = ({ tenant }) => ({
      roles: [{ name: `of-${tenant}`, scopes: ["a", "b"] }],
    });
    expect((await against({ listRoles }, ["list", "--tenant", "acme"])).out).toMatch(/^of-acme +a b +- +-$/m);
  });

  it.each([
    [["--scope", "a"], ["scopes"], { scopes: ["a"] }],
    [["--clear", "scopes", "--description", "x"], ["description", "scopes"], { scopes: [], description: "x" }],
  ])("update %j masks just the fields given, and shows the effect", async (flags, paths, fields) => {
    let sent: UpdateRoleRequest | undefined;
    const updateRole = (request: UpdateRoleRequest) => {
      sent = request;
      return { role: { name: "deployer" }, effect };
    };
    const { out } = await against({ updateRole }, ["update", "deployer", "--no-wait", ...flags]);
    expect(sent).toMatchObject({ role: { name: "deployer", ...fields }, updateMask: { paths }, noWait: true });
    expect(out).toContain("by 2027-01-15T08:00:00Z at the latest (ACCEPTED), position 9");
  });

  it("delete sends force with --force alone", async () => {
    const forced: boolean[] = [];
    const deleteRole: ServiceImpl<typeof RoleAdmin>["deleteRole"] = ({ name, force, noWait }) => {
      forced.push(force, noWait);
      return { role: { name }, effect };
    };
    await against({ deleteRole }, ["delete", "deployer"]);
    await against({ deleteRole }, ["delete", "deployer", "--force", "--no-wait"]);
    expect(forced).toEqual([false, false, true, true]);
  });

  it("an update of no field is a usage error", async () =>
    expect(await against({}, ["update", "deployer"])).toMatchObject({ exit: 2, calls: 0 }));
});
