import { useEffect, useMemo, useState } from "preact/hooks";
import { type Token, TokenState } from "../gen/sallyport/v1/token_admin_pb.ts";
import { Bulk } from "./bulk.tsx";
import { Create } from "./create.tsx";
import { useLoad } from "./load.ts";
import { Empty, Foreign, Icon, nameOf, PageTurns, Reading, Scopes, State, When } from "./parts.tsx";
import { Revoke } from "./revoke.tsx";
import { go, homeTenant, href, isSecret, may, me, notes, now, route, tenant } from "./state.ts";
import { DAY, dateText, millis, stampOf, zoneText } from "./text.ts";
import { tokens } from "./wire.ts";

const VIEWS = [
  ["", "All"],
  ["soon", "Expiring soon"],
  ["unused", "Unused for 90 days"],
  ["never", "No expiry"],
  ["revoked", "Revoked"],
] as const;
const LIVE = [TokenState.ACTIVE, TokenState.NOT_YET_VALID, TokenState.DISABLED];
const STATES = [
  ["", "Any state"],
  ["live", "Not revoked"],
  ["ACTIVE", "Active"],
  ["DISABLED", "Disabled"],
  ["EXPIRED", "Expired"],
  ["REVOKED", "Revoked"],
] as const;
const CREATED = [
  ["", "Created any time"],
  ["1", "Created today"],
  ["7", "Created in 7 days"],
  ["30", "Created in 30 days"],
] as const;

/** The request of a list: its named view, its filters. */
function requestOf(query: URLSearchParams, own: string | undefined, tenant: string, at: number) {
  const view = query.get("view") ?? "";
  const state = query.get("state") ?? "";
  const created = Number(query.get("created"));
  const states =
    view === "revoked"
      ? [TokenState.REVOKED]
      : state === "live"
        ? LIVE
        : state !== ""
          ? [TokenState[state as keyof typeof TokenState]]
          : view === ""
            ? []
            : LIVE;
  return {
    tenant,
    principal: own ?? query.get("principal") ?? "",
    profile: query.get("profile") ?? "",
    createdBy: query.get("by") ?? "",
    role: query.get("role") ?? "",
    displayNamePrefix: query.get("name") ?? "",
    states,
    noExpiry: view === "never",
    expiresBefore: view === "soon" ? stampOf(at + 30 * DAY) : undefined,
    lastUsedBefore: view === "unused" ? stampOf(at - 90 * DAY) : undefined,
    createdAfter: created > 0 ? stampOf(at - created * DAY) : undefined,
  };
}

export function Tokens({ mine = false }: { mine?: boolean }) {
  const { query } = route.value;
  const [pages, setPages] = useState<readonly string[]>([""]);
  const [ticked, setTicked] = useState<ReadonlyMap<string, Token>>(new Map());
  const [dialog, setDialog] = useState<"create" | "many" | "ticked" | Token | undefined>(undefined);
  const own = mine ? me.value!.caller!.principal : undefined;
  const where = mine ? homeTenant() : tenant.value;
  const key = `${mine}|${where}|${query}`;
  useEffect(() => {
    setPages([""]);
    setTicked(new Map());
  }, [key]);
  // A page token belongs to its filters, so that the times of all pages are those of the first one.
  const at = useMemo(now, [key]);
  const pageToken = pages.at(-1)!;
  const list = useLoad(`${key}|${pageToken}`, (signal) =>
    tokens.listTokens({ ...requestOf(query, own, where, at), pageToken }, { signal }),
  );
  const path = mine ? "/mine" : "/tokens";
  const set = (name: string, value: string) => {
    const next = Object.fromEntries(query);
    delete next["new"];
    go(path, { ...next, [name]: value });
  };
  const filtered = [...query.keys()].some((name) => name !== "new");
  const creatable = me.value!.profiles.some(({ canCreate }) => canCreate) && where !== "-";
  const revocable = mine || may("sallyport.tokens.revoke");
  // A request revokes the tokens of one tenant.
  const tickable = revocable && where !== "-";
  const title = mine ? "My tokens" : where === "-" ? "All tokens of all tenants" : "All tokens";
  const view = query.get("view") ?? "";
  const done = notes.value.get(path);
  const tick = (token: Token, on: boolean) => {
    const next = new Map(ticked);
    if (on) next.set(token.id, token);
    else next.delete(token.id);
    setTicked(next);
  };
  return (
    <>
      <div class="title">
        <h1>{title}</h1>
        <div class="actions">
          {tickable && !mine && (
            <button type="button" onClick={() => setDialog("many")}>
              Revoke many…
            </button>
          )}
          {creatable && (
            <button type="button" class="primary" onClick={() => setDialog("create")}>
              <Icon name="plus" />
              New token
            </button>
          )}
        </div>
      </div>
      {done !== undefined && <div class="stack gap">{done as never}</div>}
      <nav class="views" aria-label="Views">
        {VIEWS.map(([name, text]) => (
          <a key={name} href={href(path, { view: name })} aria-current={view === name ? "true" : undefined}>
            {text}
          </a>
        ))}
      </nav>
      <div class="filters" role="group" aria-label="Filters">
        {view !== "revoked" && <Choice name="state" label="State" options={STATES} query={query} set={set} />}
        <Choice
          name="profile"
          label="Profile"
          options={[["", "Any profile"], ...me.value!.profiles.map(({ name }) => [name, name] as const)]}
          query={query}
          set={set}
        />
        <Choice name="created" label="Created" options={CREATED} query={query} set={set} />
        {!mine && (
          <Typed key={`p${query.get("principal")}`} name="principal" label="Principal" query={query} set={set} />
        )}
        <Typed key={`r${query.get("role")}`} name="role" label="Role" query={query} set={set} />
        <Typed key={`b${query.get("by")}`} name="by" label="Created by" query={query} set={set} />
        <Typed key={`n${query.get("name")}`} name="name" label="Name begins with" query={query} set={set} />
      </div>
      {ticked.size > 0 && (
        <div class="ticked" role="status">
          {ticked.size} selected{" "}
          <button type="button" class="danger" onClick={() => setDialog("ticked")}>
            Revoke {ticked.size === 1 ? "it" : "them"}…
          </button>{" "}
          <button type="button" class="plain" onClick={() => setTicked(new Map())}>
            Select none
          </button>
        </div>
      )}
      <Reading of={list}>
        {({ tokens: rows, nextPageToken }) =>
          rows.length === 0 && pages.length === 1 && nextPageToken === "" ? (
            <Empty>
              {filtered ? (
                <>
                  <h2>No token matches</h2>
                  <p class="muted">Other filters may find one.</p>
                  <a class="button" href={href(path)}>
                    Clear filters
                  </a>
                </>
              ) : (
                <>
                  <h2>No tokens yet</h2>
                  <p class="muted">
                    {creatable
                      ? "Create the first one: you will see its string once."
                      : "Ask an administrator to create one for you."}
                  </p>
                </>
              )}
            </Empty>
          ) : (
            <div class="card">
              <div class="scroll" role="region" aria-label="Tokens" tabindex={0}>
                <table role="table">
                  <caption class="hidden">{title}, newest first</caption>
                  <thead role="rowgroup">
                    <tr role="row">
                      {tickable && (
                        <th role="columnheader" class="tick">
                          <input
                            type="checkbox"
                            aria-label="Select all on this page"
                            checked={rows.length > 0 && rows.every(({ id }) => ticked.has(id))}
                            onChange={(event) => {
                              const on = event.currentTarget.checked;
                              setTicked(new Map(on ? rows.map((row) => [row.id, row]) : []));
                            }}
                          />
                        </th>
                      )}
                      {["Token", "Principal", "Scopes", "State", "Expires", "Last used"].map((name) => (
                        <th key={name} role="columnheader" scope="col">
                          {name}
                        </th>
                      ))}
                      {revocable && (
                        <th role="columnheader">
                          <span class="hidden">Actions</span>
                        </th>
                      )}
                    </tr>
                  </thead>
                  <tbody role="rowgroup">
                    {rows.map((row) => (
                      <tr key={row.id} role="row">
                        {tickable && (
                          <td role="cell" class="tick">
                            <input
                              type="checkbox"
                              aria-label={`Select ${nameOf(row)}`}
                              checked={ticked.has(row.id)}
                              onChange={(event) => tick(row, event.currentTarget.checked)}
                            />
                          </td>
                        )}
                        <td role="cell">
                          <a href={href(`/tokens/${row.id}`)}>
                            <bdi>{nameOf(row)}</bdi>
                          </a>
                          <span class="sub mono">{row.hint}</span>
                        </td>
                        <td role="cell" data-name="Principal">
                          <Foreign text={row.principal} />
                          {where === "-" && <span class="sub">{row.tenant}</span>}
                        </td>
                        <td role="cell" class={row.scopes.length === 0 ? "wide" : ""}>
                          <Scopes of={row.scopes} />
                        </td>
                        <td role="cell">
                          <State of={row} />
                        </td>
                        <td role="cell" class="nowrap" data-name="Expires">
                          <When at={row.expireTime} />
                          {row.expireTime !== undefined && <span class="sub">{dateText(millis(row.expireTime))}</span>}
                        </td>
                        <td role="cell" class="nowrap" data-name="Used">
                          <When at={row.lastUseTime} />
                          {row.lastUseAddress && <span class="sub">{row.lastUseAddress}</span>}
                        </td>
                        {revocable && (
                          <td role="cell" class="more">
                            {row.state !== TokenState.REVOKED && (
                              <button
                                type="button"
                                class="plain quiet"
                                aria-label={`Revoke ${nameOf(row)}`}
                                onClick={() => setDialog(row)}
                              >
                                Revoke…
                              </button>
                            )}
                          </td>
                        )}
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
              <div class="foot">
                <span>
                  50 per page, newest first. Times in {zoneText()}.
                  {where === "-" && revocable && " Choose one tenant to select several."}
                </span>
                <PageTurns pages={pages} next={nextPageToken} turn={setPages} />
              </div>
            </div>
          )
        }
      </Reading>
      {dialog === "create" && <Create mine={mine} onClose={() => setDialog(undefined)} />}
      {(dialog === "many" || dialog === "ticked") && (
        <Bulk
          path={path}
          tenant={where}
          ids={dialog === "ticked" ? [...ticked.keys()] : undefined}
          onClose={(didIt) => {
            setDialog(undefined);
            if (didIt) setTicked(new Map());
          }}
        />
      )}
      {typeof dialog === "object" && <Revoke token={dialog} onClose={() => setDialog(undefined)} />}
    </>
  );
}

interface FilterProps {
  readonly name: string;
  readonly label: string;
  readonly query: URLSearchParams;
  readonly set: (name: string, value: string) => void;
}

export function Choice({
  name,
  label,
  options,
  query,
  set,
}: FilterProps & { options: readonly (readonly [string, string])[] }) {
  const value = query.get(name) ?? "";
  return (
    <label class={value === "" ? "chip" : "chip on"}>
      <span class="hidden">{label}</span>
      <select value={value} onChange={(event) => set(name, event.currentTarget.value)}>
        {options.map(([option, text]) => (
          <option key={option} value={option}>
            {option === "" ? label : text}
          </option>
        ))}
      </select>
    </label>
  );
}

export function Typed({ name, label, query, set }: FilterProps) {
  const value = query.get(name) ?? "";
  return (
    <label class={value === "" ? "chip" : "chip on"}>
      <span class="hidden">{label}</span>
      <input
        placeholder={label}
        defaultValue={value}
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => {
          const field = event.currentTarget;
          const secret = isSecret(field.value);
          if (secret) field.value = "";
          field.placeholder = secret ? "A secret? It was not sent" : label;
        }}
        onChange={(event) => isSecret(event.currentTarget.value) || set(name, event.currentTarget.value.trim())}
      />
    </label>
  );
}
