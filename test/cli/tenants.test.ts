import type { ServiceImpl } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { TenantAdmin, TenantState, type UpdateTenantRequest } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import { cli, peer } from "./peer.ts";

const effect = { mode: EffectMode.ACCEPTED, position: 9n, effectiveBy: { seconds: 1_800_000_000n, nanos: 0 } };

async function against(impl: Partial<ServiceImpl<typeof TenantAdmin>>, argv: string[]) {
  await using listener = await peer((router) => router.service(TenantAdmin, impl));
  return { ...(await cli(["tenants", ...argv, "--address", listener.address])), calls: listener.headers.length };
}

describe("tenants", () => {
  it("create, get and list send the request and show the answer", async () => {
    const made = await against({ createTenant: ({ tenant }) => ({ tenant }) }, [
      "create",
      "acme",
      "--display-name",
      "Acme",
    ]);
    expect(made.out).toMatch(/^tenant +acme\nstate +UNSPECIFIED\nname +Acme\n/);
    const got = await against({ getTenant: ({ id }) => ({ tenant: { id } }) }, ["get", "acme", "--json"]);
    expect(JSON.parse(got.out)).toMatchObject({ tenant: { id: "acme", state: "TENANT_STATE_UNSPECIFIED" } });
    const listTenants: ServiceImpl<typeof TenantAdmin>["listTenants"] = ({ state }) => ({
      tenants: [{ id: "acme", state }],
    });
    const listed = await against({ listTenants }, ["list", "--state", "suspended"]);
    expect(listed.out).toMatch(/^acme +- +SUSPENDED +-$/m);
  });

  it.each([
    [["--suspend"], ["state"], { state: TenantState.SUSPENDED }],
    [["--resume", "--display-name", "A"], ["display_name", "state"], { state: TenantState.ACTIVE, displayName: "A" }],
  ])("update %j masks just the fields given, and shows the effect", async (flags, paths, fields) => {
    let sent: UpdateTenantRequest | undefined;
    const updateTenant = (request: UpdateTenantRequest) => {
      sent = request;
      return { tenant: { id: "acme" }, effect };
    };
    const { out } = await against({ updateTenant }, ["update", "acme", "--no-wait", ...flags]);
    expect(sent).toMatchObject({ tenant: { id: "acme", ...fields }, updateMask: { paths }, noWait: true });
    expect(out).toContain("by 2027-01-15T08:00:00Z at the latest (ACCEPTED), position 9");
  });

  it("an update of no field is a usage error", async () =>
    expect(await against({}, ["update", "acme"])).toMatchObject({ exit: 2, calls: 0 }));
});
