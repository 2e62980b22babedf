import { useState } from "preact/hooks";
import { type Principal, PrincipalState } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { type Tenant, TenantState } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { useLoad } from "./load.ts";
import { Foreign, Icon, Moment, Reading, When } from "./parts.tsx";
import { Change, Mark, one, Rows } from "./rows.tsx";
import { go, href, notes, route, tenant } from "./state.ts";
import { visible } from "./text.ts";
import { Choice, Typed } from "./tokens.tsx";
import { principals, surely, tenants } from "./wire.ts";

const PRINCIPAL_STATES: Readonly<Record<number, readonly [string, string]>> = {
  [PrincipalState.ACTIVE]: ["Active", "active"],
  [PrincipalState.DISABLED]: ["Disabled", "disabled"],
  [PrincipalState.DELETED]: ["Deleted", "revoked"],
};

export function Principals() {
  const { query } = route.value;
  const [pages, setPages] = useState<readonly string[]>([""]);
  const [making, setMaking] = useState(false);
  const pageToken = pages.at(-1)!;
  const set = (name: string, value: string) => {
    setPages([""]);
    go("/principals", { ...Object.fromEntries(query), [name]: value });
  };
  const list = useLoad(`principals|${tenant.value}|${query}|${pageToken}`, async (signal) => {
    const request = {
      tenant: one(),
      type: query.get("type") ?? "",
      namePrefix: query.get("name") ?? "",
      state: PrincipalState[(query.get("state") ?? "") as keyof typeof PrincipalState] ?? PrincipalState.UNSPECIFIED,
      pageToken,
    };
    const { principals: rows, nextPageToken: next } = await principals.listPrincipals(request, { signal });
    return { rows, next };
  });
  return (
    <>
      <div class="title">
        <h1>Principals</h1>
        <div class="actions">
          <button type="button" class="primary" onClick={() => setMaking(true)}>
            <Icon name="plus" />
            New principal
          </button>
        </div>
      </div>
      {notes.value.get("/principals") as never}
      <div class="filters" role="group" aria-label="Filters">
        <Choice
          name="type"
          label="Type"
          options={[
            ["", "Any type"],
            ["user", "Users"],
            ["bot", "Bots"],
            ["service", "Services"],
            ["org", "Organizations"],
          ]}
          query={query}
          set={set}
        />
        <Choice
          name="state"
          label="State"
          options={[
            ["", "Not deleted"],
            ["ACTIVE", "Active"],
            ["DISABLED", "Disabled"],
            ["DELETED", "Deleted"],
          ]}
          query={query}
          set={set}
        />
        <Typed key={query.get("name")} name="name" label="Name begins with" query={query} set={set} />
      </div>
      <Rows<Principal>
        title="Principals"
        list={list}
        columns={["Principal", "Name", "Owner", "State", "Created"]}
        keyOf={({ name }) => name}
        cells={(row) => [
          <a key="a" href={href(`/principals/${encodeURIComponent(row.name)}`)}>
            <Foreign text={row.name} />
          </a>,
          <Foreign key="n" text={row.displayName} />,
          <Foreign key="o" text={row.owner} />,
          <Mark key="s" of={PRINCIPAL_STATES[row.state]} />,
          <When key="c" at={row.createTime} />,
        ]}
        pages={pages}
        setPages={setPages}
        empty={
          query.size > 0 ? (
            <>
              <h2>No principal matches</h2>
              <a class="button" href={href("/principals")}>
                Clear filters
              </a>
            </>
          ) : (
            <>
              <h2>No principals yet</h2>
              <p class="muted">Register a bot or a service, then create its first token.</p>
            </>
          )
        }
      />
      {making && (
        <Change
          title="New principal"
          text={`In ${one() || "your tenant"}.`}
          verb="Create"
          fields={[
            ["name", "Principal", "bot:ci-runner, service:billing"],
            ["display_name", "Name (optional)", "For people"],
            ["owner", "Owner (optional)", "Who answers for it: user:ann"],
          ]}
          at="/principals"
          done={({ name = "" }) => `Created ${visible(name)}`}
          run={async ({ name = "", display_name = "", owner = "" }) => {
            await principals.createPrincipal({
              principal: { tenant: one(), name: name.trim(), displayName: display_name, owner },
            });
            return undefined;
          }}
          onClose={() => setMaking(false)}
        />
      )}
    </>
  );
}

export function PrincipalPage({ name }: { name: string }) {
  const [dialog, setDialog] = useState<"state" | "delete" | undefined>(undefined);
  const loaded = useLoad(`principal|${tenant.value}|${name}`, async (signal) => {
    const { principal } = await principals.getPrincipal({ tenant: one(), name }, { signal });
    return principal!;
  });
  const key = `principal:${name}`;
  return (
    <>
      <p class="small">
        <a href={href("/principals")}>Principals</a>
      </p>
      <div class="title">
        <h1>
          <Foreign text={name} />
        </h1>
        {loaded.data !== undefined && (
          <>
            <Mark of={PRINCIPAL_STATES[loaded.data.state]} />
            {loaded.data.state !== PrincipalState.DELETED && (
              <div class="actions">
                <button type="button" onClick={() => setDialog("state")}>
                  {loaded.data.state === PrincipalState.DISABLED ? "Enable" : "Disable…"}
                </button>
                <button type="button" class="danger" onClick={() => setDialog("delete")}>
                  Delete…
                </button>
              </div>
            )}
          </>
        )}
      </div>
      <Reading of={loaded}>
        {(principal) => {
          const disabling = principal.state === PrincipalState.ACTIVE;
          return (
            <div class="stack">
              {notes.value.get(key) as never}
              <section class="card" aria-labelledby="facts">
                <h2 id="facts">Facts</h2>
                <dl class="facts">
                  <div>
                    <dt>Name</dt>
                    <dd>
                      <Foreign text={principal.displayName || "none"} />
                    </dd>
                  </div>
                  <div>
                    <dt>Tenant</dt>
                    <dd>{principal.tenant}</dd>
                  </div>
                  <div>
                    <dt>Owner</dt>
                    <dd>
                      {principal.owner === "" ? (
                        <span class="muted">nobody</span>
                      ) : (
                        <a href={href(`/principals/${encodeURIComponent(principal.owner)}`)}>
                          <Foreign text={principal.owner} />
                        </a>
                      )}
                    </dd>
                  </div>
                  <div>
                    <dt>Created</dt>
                    <dd>
                      <Moment at={principal.createTime} />
                    </dd>
                  </div>
                  <div>
                    <dt>Tokens</dt>
                    <dd>
                      <a href={href("/tokens", { principal: name })}>Show its tokens</a>
                    </dd>
                  </div>
                </dl>
              </section>
              {dialog === "state" && (
                <Change
                  title={disabling ? `Disable ${visible(name)}?` : `Enable ${visible(name)}?`}
                  text={
                    disabling ? "All its tokens are refused everywhere until it is enabled." : "Its tokens work again."
                  }
                  verb={disabling ? "Disable" : "Enable"}
                  danger={disabling}
                  at={key}
                  done={() => (disabling ? "Disabled" : "Enabled")}
                  run={async () => {
                    const state = disabling ? PrincipalState.DISABLED : PrincipalState.ACTIVE;
                    const { effect } = await surely(() =>
                      principals.updatePrincipal({
                        principal: { tenant: principal.tenant, name, state, etag: principal.etag },
                        updateMask: { paths: ["state"] },
                      }),
                    );
                    return effect;
                  }}
                  onClose={() => setDialog(undefined)}
                />
              )}
              {dialog === "delete" && (
                <Change
                  title={`Delete ${visible(name)}?`}
                  text="All its tokens are refused everywhere, at once and for good."
                  verb="Delete"
                  danger
                  at={key}
                  done={() => "Deleted"}
                  run={async () => {
                    const { effect } = await surely(() =>
                      principals.deletePrincipal({ tenant: principal.tenant, name }),
                    );
                    return effect;
                  }}
                  onClose={() => setDialog(undefined)}
                />
              )}
            </div>
          );
        }}
      </Reading>
    </>
  );
}

export function Tenants() {
  const [pages, setPages] = useState<readonly string[]>([""]);
  const [dialog, setDialog] = useState<"create" | Tenant | undefined>(undefined);
  const pageToken = pages.at(-1)!;
  const list = useLoad(`all-tenants|${pageToken}`, async (signal) => {
    const { tenants: rows, nextPageToken: next } = await tenants.listTenants({ pageToken }, { signal });
    return { rows, next };
  });
  const suspending = typeof dialog === "object" && dialog.state === TenantState.ACTIVE;
  return (
    <>
      <div class="title">
        <h1>Tenants</h1>
        <div class="actions">
          <button type="button" class="primary" onClick={() => setDialog("create")}>
            <Icon name="plus" />
            New tenant
          </button>
        </div>
      </div>
      <div class="stack gap">{notes.value.get("/tenants") as never}</div>
      <Rows<Tenant>
        title="Tenants"
        list={list}
        columns={["Tenant", "Name", "State", "Created", "Actions"]}
        keyOf={({ id }) => id}
        cells={(row) => [
          <strong key="i">{row.id}</strong>,
          <Foreign key="n" text={row.displayName} />,
          <Mark key="s" of={row.state === TenantState.ACTIVE ? ["Active", "active"] : ["Suspended", "disabled"]} />,
          <When key="c" at={row.createTime} />,
          <button
            key="a"
            type="button"
            class="plain quiet"
            aria-label={`${row.state === TenantState.ACTIVE ? "Suspend" : "Resume"} ${row.id}`}
            onClick={() => setDialog(row)}
          >
            {row.state === TenantState.ACTIVE ? "Suspend…" : "Resume…"}
          </button>,
        ]}
        pages={pages}
        setPages={setPages}
        empty={<h2>No tenants</h2>}
      />
      {dialog === "create" && (
        <Change
          title="New tenant"
          verb="Create"
          fields={[
            ["id", "Tenant", "Small letters, digits and hyphens: acme"],
            ["display_name", "Name (optional)", "For people"],
          ]}
          at="/tenants"
          done={({ id = "" }) => `Created ${visible(id)}`}
          run={async ({ id = "", display_name = "" }) => {
            await tenants.createTenant({ tenant: { id: id.trim(), displayName: display_name } });
            return undefined;
          }}
          onClose={() => setDialog(undefined)}
        />
      )}
      {typeof dialog === "object" && (
        <Change
          title={suspending ? `Suspend ${dialog.id}?` : `Resume ${dialog.id}?`}
          text={suspending ? "All its tokens are refused everywhere until it is resumed." : "Its tokens work again."}
          verb={suspending ? "Suspend" : "Resume"}
          danger={suspending}
          at="/tenants"
          done={() => `${suspending ? "Suspended" : "Resumed"} ${dialog.id}`}
          run={async () => {
            const { effect } = await surely(() =>
              tenants.updateTenant({
                tenant: {
                  id: dialog.id,
                  etag: dialog.etag,
                  state: suspending ? TenantState.SUSPENDED : TenantState.ACTIVE,
                },
                updateMask: { paths: ["state"] },
              }),
            );
            return effect;
          }}
          onClose={() => setDialog(undefined)}
        />
      )}
    </>
  );
}
