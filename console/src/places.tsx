import { useState } from "preact/hooks";
import { AuditOutcome } from "../gen/sallyport/v1/audit_log_pb.ts";
import type { Effect } from "../gen/sallyport/v1/effect_pb.ts";
import { type Principal, PrincipalState } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { InstanceState, RedisState } from "../gen/sallyport/v1/server_info_pb.ts";
import { type Tenant, TenantState } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { type Loaded, useLoad } from "./load.ts";
import {
  Dialog,
  EffectText,
  Elapsed,
  Empty,
  Field,
  Foreign,
  Icon,
  Moment,
  Note,
  Problem,
  Reading,
  When,
} from "./parts.tsx";
import { changes, go, href, note, notes, route, tenant } from "./state.ts";
import { holdsToken, visible } from "./text.ts";
import { Choice, Typed } from "./tokens.tsx";
import { audit, type Failure, failureOf, info, principals, surely, tenants } from "./wire.ts";

/** The tenant of a page that shows one: with all of them chosen, the caller's own. */
export const one = () => (tenant.value === "-" ? "" : tenant.value);

/** A table of a list, with its pages. */
export function Rows<T>(props: {
  title: string;
  list: Loaded<{ rows: readonly T[]; next: string }>;
  columns: readonly string[];
  cells: (row: T) => readonly preact.ComponentChildren[];
  keyOf: (row: T) => string;
  pages: readonly string[];
  setPages: (pages: readonly string[]) => void;
  empty: preact.ComponentChildren;
}) {
  const { title, columns, cells, keyOf, pages, setPages } = props;
  return (
    <Reading of={props.list}>
      {({ rows, next }) =>
        rows.length === 0 && pages.length === 1 && next === "" ? (
          <Empty>{props.empty}</Empty>
        ) : (
          <div class="card">
            <div class="scroll" role="region" aria-label={title} tabindex={0}>
              <table role="table">
                <caption class="hidden">{title}, newest first</caption>
                <thead role="rowgroup">
                  <tr role="row">
                    {columns.map((name) => (
                      <th key={name} role="columnheader" scope="col">
                        {name}
                      </th>
                    ))}
                  </tr>
                </thead>
                <tbody role="rowgroup">
                  {rows.map((row) => (
                    <tr key={keyOf(row)} role="row">
                      {cells(row).map((cell, i) => (
                        <td key={columns[i]} role="cell" data-name={i === 0 ? undefined : columns[i]}>
                          {cell}
                        </td>
                      ))}
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
            <div class="foot">
              <span>50 per page, newest first.</span>
              <span class="actions">
                <button
                  type="button"
                  aria-disabled={pages.length === 1}
                  onClick={() => pages.length > 1 && setPages(pages.slice(0, -1))}
                >
                  Previous
                </button>
                <button
                  type="button"
                  aria-disabled={next === ""}
                  onClick={() => next !== "" && setPages([...pages, next])}
                >
                  Next
                </button>
              </span>
            </div>
          </div>
        )
      }
    </Reading>
  );
}

/** A dialog that makes one change, and tells why it failed. */
function Change(props: {
  title: string;
  text?: string;
  verb: string;
  danger?: boolean;
  fields?: readonly (readonly [name: string, label: string, hint: string])[];
  run: (values: Readonly<Record<string, string>>) => Promise<void>;
  onClose: () => void;
}) {
  const [values, setValues] = useState<Readonly<Record<string, string>>>({});
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const { title, text, verb, danger, fields = [], run, onClose } = props;
  const secret = Object.values(values).some(holdsToken);
  const submit = async () => {
    if (busy || secret) return;
    setBusy(true);
    setFailure(undefined);
    try {
      await run(values);
      changes.value++;
      onClose();
    } catch (error) {
      setFailure(failureOf(error));
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={title}
      text={text}
      onClose={() => busy || onClose()}
      onSubmit={submit}
      foot={
        <>
          <span class="small muted" role="status">
            {busy && (
              <>
                Working: <Elapsed />
              </>
            )}
          </span>
          <button type="button" data-first={fields.length === 0} onClick={() => busy || onClose()}>
            Cancel
          </button>
          <button type="submit" class={danger ? "primary danger" : "primary"} aria-disabled={busy || secret}>
            {verb}
          </button>
        </>
      }
    >
      {fields.map(([name, label, hint], i) => (
        <Field
          key={name}
          label={label}
          hint={hint}
          problem={
            holdsToken(values[name] ?? "")
              ? "This looks like a token"
              : [...(failure?.fields ?? [])].find(([field]) => field.endsWith(name))?.[1]
          }
        >
          {(attributes) => (
            <input
              {...attributes}
              {...(i === 0 && { "data-first": true })}
              value={values[name] ?? ""}
              autocomplete="off"
              spellcheck={false}
              onInput={(event) => setValues({ ...values, [name]: event.currentTarget.value })}
            />
          )}
        </Field>
      ))}
      {failure !== undefined && <Problem failure={failure} />}
    </Dialog>
  );
}

export function tell(key: string, effect: Effect | undefined, verb: string): void {
  note(
    key,
    <Note kind="ok" live>
      {effect === undefined ? <strong>{verb}.</strong> : <EffectText of={effect} verb={verb} />}
    </Note>,
  );
}

const PRINCIPAL_STATES: Readonly<Record<number, readonly [string, string]>> = {
  [PrincipalState.ACTIVE]: ["Active", "active"],
  [PrincipalState.DISABLED]: ["Disabled", "disabled"],
  [PrincipalState.DELETED]: ["Deleted", "revoked"],
};

function Mark({ of }: { of: readonly [string, string] | undefined }) {
  return <span class={`state ${of?.[1] ?? "expired"}`}>{of?.[0] ?? "Unknown"}</span>;
}

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
          run={async ({ name = "", display_name = "", owner = "" }) => {
            await principals.createPrincipal({
              principal: { tenant: one(), name: name.trim(), displayName: display_name, owner },
            });
            tell("/principals", undefined, `Created ${visible(name)}`);
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
                  run={async () => {
                    const state = disabling ? PrincipalState.DISABLED : PrincipalState.ACTIVE;
                    const { effect } = await surely(() =>
                      principals.updatePrincipal({
                        principal: { tenant: principal.tenant, name, state, etag: principal.etag },
                        updateMask: { paths: ["state"] },
                      }),
                    );
                    tell(key, effect, disabling ? "Disabled" : "Enabled");
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
                  run={async () => {
                    const { effect } = await surely(() =>
                      principals.deletePrincipal({ tenant: principal.tenant, name }),
                    );
                    tell(key, effect, "Deleted");
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
          run={async ({ id = "", display_name = "" }) => {
            await tenants.createTenant({ tenant: { id: id.trim(), displayName: display_name } });
            tell("/tenants", undefined, `Created ${visible(id)}`);
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
            tell("/tenants", effect, suspending ? `Suspended ${dialog.id}` : `Resumed ${dialog.id}`);
          }}
          onClose={() => setDialog(undefined)}
        />
      )}
    </>
  );
}

export function Audit() {
  const { query } = route.value;
  const [pages, setPages] = useState<readonly string[]>([""]);
  const pageToken = pages.at(-1)!;
  const set = (name: string, value: string) => {
    setPages([""]);
    go("/audit", { ...Object.fromEntries(query), [name]: value });
  };
  const list = useLoad(`audit|${tenant.value}|${query}|${pageToken}`, async (signal) => {
    const filter = (name: string) => query.get(name) ?? "";
    const request = {
      tenant: one(),
      actor: filter("actor"),
      action: filter("action"),
      target: filter("target"),
      owner: filter("owner"),
    };
    const { events: rows, nextPageToken: next } = await audit.listAuditEvents({ ...request, pageToken }, { signal });
    return { rows, next };
  });
  return (
    <>
      <div class="title">
        <h1>Audit</h1>
      </div>
      <div class="filters" role="group" aria-label="Filters">
        {["actor", "action", "target", "owner"].map((name) => (
          <Typed
            key={`${name}${query.get(name)}`}
            name={name}
            label={`${name[0]!.toUpperCase()}${name.slice(1)}`}
            query={query}
            set={set}
          />
        ))}
      </div>
      <Rows
        title="Audit events"
        list={list}
        columns={["Time", "Actor", "Action", "Target", "Owner", "Outcome", "Facts"]}
        keyOf={({ sequence }) => String(sequence)}
        cells={(row) => [
          <Moment key="t" at={row.time} />,
          <>
            <Foreign text={row.actor} />
            {row.actorAddress && <span class="sub">{row.actorAddress}</span>}
          </>,
          <code key="a">{row.action}</code>,
          row.target.startsWith("token:") ? (
            <a href={href(`/tokens/${row.target.slice(6)}`)}>
              <code>{row.target}</code>
            </a>
          ) : (
            <Foreign text={row.target} />
          ),
          <Foreign key="o" text={row.owner} />,
          row.outcome === AuditOutcome.DENIED ? (
            <span class="state revoked">Denied</span>
          ) : (
            <span class="state active">OK</span>
          ),
          <span key="m" class="small muted">
            {Object.entries(row.metadata)
              .map(([name, value]) => `${visible(name)} ${visible(value)}`)
              .join(" · ")}
          </span>,
        ]}
        pages={pages}
        setPages={setPages}
        empty={
          <>
            <h2>No event {query.size > 0 ? "matches" : "yet"}</h2>
            {query.size > 0 && (
              <a class="button" href={href("/audit")}>
                Clear filters
              </a>
            )}
          </>
        }
      />
    </>
  );
}

const REDIS: Readonly<Record<number, string>> = {
  [RedisState.OFF]: "not configured",
  [RedisState.READY]: "answers",
  [RedisState.AWAY]: "does not answer; answers stay right without it",
};

export function Status() {
  const status = useLoad("status", (signal) => info.listInstances({}, { signal }));
  return (
    <>
      <div class="title">
        <h1>Status</h1>
        <div class="actions">
          <button type="button" onClick={status.again}>
            Read again
          </button>
        </div>
      </div>
      <Reading of={status}>
        {({ instances, headPosition, settled, redis, lastWait }) => (
          <div class="stack">
            <section class="card" aria-labelledby="log">
              <h2 id="log">Log of changes</h2>
              <dl class="facts">
                <div>
                  <dt>Position</dt>
                  <dd>{headPosition.toLocaleString("en")}</dd>
                </div>
                <div>
                  <dt>Settled</dt>
                  <dd>{settled ? "yes" : "not yet: changes wait for the end of all leases"}</dd>
                </div>
                <div>
                  <dt>Redis</dt>
                  <dd>{REDIS[redis]}</dd>
                </div>
                <div>
                  <dt>Last change</dt>
                  <dd>{lastWait === undefined ? "none since the start" : <EffectText of={lastWait} verb="Done" />}</dd>
                </div>
              </dl>
            </section>
            <div class="card">
              <div class="scroll" role="region" aria-label="Instances" tabindex={0}>
                <table role="table">
                  <caption class="hidden">Instances</caption>
                  <thead role="rowgroup">
                    <tr role="row">
                      {["Instance", "Mode", "Version", "State", "Behind", "Seen"].map((name) => (
                        <th key={name} role="columnheader" scope="col">
                          {name}
                        </th>
                      ))}
                    </tr>
                  </thead>
                  <tbody role="rowgroup">
                    {instances.map((row) => (
                      <tr key={row.id} role="row">
                        <td role="cell">
                          <code>{row.id}</code>
                        </td>
                        <td role="cell" data-name="Mode">
                          {visible(row.mode) || "unknown"}
                        </td>
                        <td role="cell" data-name="Version">
                          {visible(row.version) || "unknown"}
                        </td>
                        <td role="cell" data-name="State">
                          <Mark of={row.state === InstanceState.LIVE ? ["Live", "active"] : ["Reaped", "revoked"]} />
                        </td>
                        <td role="cell" data-name="Behind">
                          {row.appliedPosition < 0n
                            ? "starting"
                            : (headPosition > row.appliedPosition
                                ? headPosition - row.appliedPosition
                                : 0n
                              ).toLocaleString("en")}
                        </td>
                        <td role="cell" data-name="Seen">
                          <When at={row.seenTime} />
                        </td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            </div>
          </div>
        )}
      </Reading>
    </>
  );
}
