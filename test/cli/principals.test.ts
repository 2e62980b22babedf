import type { ServiceImpl } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import {
  type DeletePrincipalRequest,
  type ListPrincipalsRequest,
  PrincipalAdmin,
  PrincipalState,
  type UpdatePrincipalRequest,
} from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { apiError, Code, cli, fromNow, peer } from "./peer.ts";

const principal = { name: "bot:ci", tenant: "acme", state: PrincipalState.ACTIVE, createTime: fromNow(-7_260_000) };
const effect = { mode: EffectMode.LEASE_EXPIRED, position: 7n, waited: { seconds: 1n, nanos: 500_000_000 } };
const IN_FORCE = "in force everywhere after 1.5 s (LEASE_EXPIRED), position 7";

async function against(impl: Partial<ServiceImpl<typeof PrincipalAdmin>>, argv: string[]) {
  await using listener = await peer((router) => router.service(PrincipalAdmin, impl));
  return { ...(await cli(["principals", ...argv, "--address", listener.address])), calls: listener.headers.length };
}

describe("principals", () => {
  it("create sends the principal and shows it", async () => {
    const flags = ["--tenant", "acme", "--display-name", "CI", "--email", "a@b.example", "--owner", "user:ann"];
    const { out } = await against({ createPrincipal: ({ principal }) => ({ principal }) }, [
      ...["create", "bot:ci", "--annotation", "team=x"],
      ...flags,
    ]);
    expect(
      out
        .trimEnd()
        .split("\n")
        .map((line) => line.split(/ {2,}/)),
    ).toEqual([
      ["principal", "bot:ci"],
      ["tenant", "acme"],
      ["state", "UNSPECIFIED"],
      ["name", "CI"],
      ["email", "a@b.example"],
      ["owner", "user:ann"],
      ["annotations", "team=x"],
    ]);
  });

  it("a create with an unknown outcome says where to look", async () => {
    const createPrincipal = () => {
      throw apiError(Code.Unavailable, "OUTCOME_UNKNOWN", "unknown");
    };
    const { exit, err } = await against({ createPrincipal }, ["create", "bot:ci"]);
    expect(exit).toBe(69);
    expect(err).toContain("look with: sallyport principals get bot:ci");
  });

  it("get and list show the principal", async () => {
    const got = await against({ getPrincipal: ({ tenant, name }) => ({ principal: { tenant, name } }) }, [
      ...["get", "bot:ci", "--tenant", "acme"],
    ]);
    expect(got.out).toMatch(/^principal +bot:ci\ntenant +acme$/m);
    let sent: ListPrincipalsRequest | undefined;
    const listPrincipals = (request: ListPrincipalsRequest) => {
      sent = request;
      return { principals: [principal] };
    };
    const { out } = await against({ listPrincipals }, ["list", "--type", "bot", "--state", "disabled", "--limit", "5"]);
    expect(sent).toMatchObject({ type: "bot", state: PrincipalState.DISABLED, pageSize: 5 });
    expect(out.trimEnd().split("\n")[1]?.split(/ {2,}/)).toEqual(["bot:ci", "acme", "-", "-", "ACTIVE", "2h ago"]);
  });

  it.each([
    [["--disable"], ["state"], { state: PrincipalState.DISABLED }],
    [["--enable", "--owner", "user:bo"], ["owner", "state"], { state: PrincipalState.ACTIVE, owner: "user:bo" }],
    [["--clear", "owner", "--tenant", "acme"], ["owner"], { owner: "", tenant: "acme" }],
  ])("update %j masks just the fields given, and shows the effect", async (flags, paths, fields) => {
    let sent: UpdatePrincipalRequest | undefined;
    const updatePrincipal = (request: UpdatePrincipalRequest) => {
      sent = request;
      return { principal, effect };
    };
    const { out } = await against({ updatePrincipal }, ["update", "bot:ci", ...flags]);
    expect(sent).toMatchObject({ principal: { name: "bot:ci", ...fields }, updateMask: { paths } });
    expect(out).toContain(IN_FORCE);
  });

  it("delete shows the effect; an update of no field is a usage error", async () => {
    let sent: DeletePrincipalRequest | undefined;
    const deletePrincipal = (request: DeletePrincipalRequest) => {
      sent = request;
      return { principal: { ...principal, state: PrincipalState.DELETED }, effect };
    };
    const { out } = await against({ deletePrincipal }, ["delete", "bot:ci", "--no-wait"]);
    expect(sent).toMatchObject({ name: "bot:ci", noWait: true });
    expect(out).toContain(`Deleted, ${IN_FORCE}`);
    expect(await against({}, ["update", "bot:ci"])).toMatchObject({ exit: 2, calls: 0 });
  });
});
