import { useState } from "preact/hooks";
import { AuditOutcome } from "../gen/sallyport/v1/audit_log_pb.ts";
import { useLoad } from "./load.ts";
import { Foreign, Moment } from "./parts.tsx";
import { one, Rows } from "./rows.tsx";
import { go, href, route, tenant } from "./state.ts";
import { visible } from "./text.ts";
import { Typed } from "./tokens.tsx";
import { audit } from "./wire.ts";

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
