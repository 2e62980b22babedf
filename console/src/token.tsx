import { useEffect, useState } from "preact/hooks";
import { type Token, TokenState } from "../gen/sallyport/v1/token_admin_pb.ts";
import { Edit } from "./edit.tsx";
import { useLoad } from "./load.ts";
import { Empty, Foreign, Moment, Note, nameOf, Reading, Scopes, State, When } from "./parts.tsx";
import { Revoke } from "./revoke.tsx";
import { Rotate } from "./rotate.tsx";
import { href, may, me, notes, now, route } from "./state.ts";
import { dateText, millis, visible } from "./text.ts";
import { audit, tokens } from "./wire.ts";

export function TokenPage({ id }: { id: string }) {
  const one = useLoad(`token|${id}`, async (signal) => (await tokens.getToken({ id }, { signal })).token!);
  const back = may("sallyport.tokens.read") ? (["/tokens", "All tokens"] as const) : (["/mine", "My tokens"] as const);
  return (
    <>
      <p class="small">
        <a href={href(back[0])}>{back[1]}</a>
      </p>
      {one.data === undefined && <h1>Token</h1>}
      <Reading of={one}>{(token) => <Details token={token} />}</Reading>
    </>
  );
}

const live = ({ state }: Token) =>
  state === TokenState.ACTIVE || state === TokenState.NOT_YET_VALID || state === TokenState.DISABLED;

function Details({ token }: { token: Token }) {
  const [dialog, setDialog] = useState<"revoke" | "rotate" | "edit" | Token | undefined>(undefined);
  const asked = route.value.query.get("revoke") === "1";
  useEffect(() => {
    if (asked && live(token)) setDialog("revoke");
  }, [asked]);
  const family = useLoad(`family|${token.id}|${token.etag}`, async (signal) => {
    const { tokens: rows } = await tokens.listTokens({ tenant: token.tenant, familyOf: token.id }, { signal });
    return rows;
  });
  const { caller } = me.value!;
  const own = token.principal === caller!.principal && token.tenant === caller!.tenant;
  const ended = token.state === TokenState.REVOKED;
  const actions = [
    ["Edit", may("sallyport.tokens.create"), "edit", "sallyport.tokens.create"],
    ["Rotate…", may("sallyport.tokens.create") || token.id === caller!.tokenId, "rotate", "sallyport.tokens.create"],
    ["Revoke…", may("sallyport.tokens.revoke") || own, "revoke", "sallyport.tokens.revoke"],
  ] as const;
  const note = notes.value.get(token.id);
  const others = (family.data ?? []).filter((one) => one.id !== token.id && live(one) && one.createTime !== undefined);
  const predecessor = others.find((one) => one.id === token.rotatedFrom);
  return (
    <>
      <div class="title">
        <h1>
          <bdi>{nameOf(token)}</bdi>
        </h1>
        <State of={token} />
        <div class="actions">
          {actions.map(([text, allowed, what, permission]) => {
            const why = ended ? "It is revoked" : allowed ? undefined : `Needs ${permission}`;
            return (
              <button
                key={what}
                type="button"
                class={what === "revoke" ? "danger" : ""}
                aria-disabled={why !== undefined}
                title={why}
                onClick={() => why === undefined && setDialog(what)}
              >
                {text}
              </button>
            );
          })}
        </div>
      </div>
      <div class="stack">
        {note as never}
        {predecessor !== undefined && (
          <Note kind="warn">
            <strong>Its predecessor still works.</strong> <code>{predecessor.hint}</code> is accepted
            {predecessor.expireTime !== undefined && (
              <>
                {" "}
                until <Moment at={predecessor.expireTime} /> (<When at={predecessor.expireTime} />)
              </>
            )}
            .{" "}
            <button type="button" class="link" onClick={() => setDialog(predecessor)}>
              {ended ? "Revoke it too…" : "End it now…"}
            </button>
          </Note>
        )}
        <div class="columns">
          <Facts token={token} />
          <div class="stack">
            <Family token={token} rows={family.data} />
            <Children token={token} />
          </div>
        </div>
        {may("sallyport.audit.read") && <History token={token} />}
      </div>
      {dialog === "revoke" && <Revoke token={token} onClose={() => setDialog(undefined)} />}
      {dialog === "rotate" && <Rotate token={token} onClose={() => setDialog(undefined)} />}
      {dialog === "edit" && <Edit token={token} onClose={() => setDialog(undefined)} />}
      {typeof dialog === "object" && <Revoke token={dialog} onClose={() => setDialog(undefined)} />}
    </>
  );
}

const All = ({ of }: { of: readonly string[] }) =>
  of.length === 0 ? <span class="muted">none</span> : <Scopes of={of} most={100} />;

function Facts({ token }: { token: Token }) {
  const facts: (readonly [string, preact.ComponentChildren])[] = [
    ["Hint", <code key="h">{token.hint}</code>],
    ["Id", <code key="i">{token.id}</code>],
    [
      "Principal",
      <>
        {may("sallyport.principals.write") ? (
          <a href={href(`/principals/${encodeURIComponent(token.principal)}`)}>
            <Foreign text={token.principal} />
          </a>
        ) : (
          <Foreign text={token.principal} />
        )}{" "}
        <span class="muted">in {token.tenant}</span>
      </>,
    ],
    ["Type", token.format === "jwt" ? `${token.profile}, a JWT` : token.profile],
    ["Scopes", <All key="s" of={token.scopes} />],
    ...(token.roles.length === 0
      ? []
      : [
          [
            "Roles",
            may("sallyport.tokens.read") ? (
              <a key="r" href={href("/roles")}>
                {token.roles.join(", ")}
              </a>
            ) : (
              token.roles.join(", ")
            ),
          ] as const,
        ]),
    ...([...token.effectiveScopes].sort().join(" ") === [...token.scopes].sort().join(" ")
      ? []
      : [["In effect", <All key="e" of={token.effectiveScopes} />] as const]),
    [
      "Audiences",
      token.audiences.length === 0 ? <span class="muted">everywhere</span> : token.audiences.map(visible).join(", "),
    ],
    [
      "Networks",
      token.allowedCidrs.length === 0 ? (
        <span class="muted">everywhere</span>
      ) : (
        <code>{token.allowedCidrs.join(", ")}</code>
      ),
    ],
    ...(token.description === "" ? [] : [["Description", <Foreign key="d" text={token.description} />] as const]),
    [
      "Created",
      <>
        <Moment at={token.createTime} /> <span class="muted">by {visible(token.createdBy)}</span>
      </>,
    ],
    ...(token.notBeforeTime === undefined
      ? []
      : [["Not before", <Moment key="n" at={token.notBeforeTime} />] as const]),
    [
      "Expires",
      token.expireTime === undefined ? (
        "never"
      ) : (
        <>
          <Moment at={token.expireTime} />{" "}
          <span class="muted">
            <When at={token.expireTime} />
          </span>
        </>
      ),
    ],
    [
      "Last used",
      <>
        <When at={token.lastUseTime} /> {token.lastUseAddress && <span class="muted">from {token.lastUseAddress}</span>}
      </>,
    ],
    ["Uses", String(token.useCount)],
    ...(token.revokeTime === undefined
      ? []
      : [
          [
            "Revoked",
            <>
              <When at={token.revokeTime} /> <span class="muted">by {visible(token.revokedBy)}</span>
              {token.revokeReason !== "" && (
                <span class="sub">
                  “<Foreign text={token.revokeReason} />”
                </span>
              )}
            </>,
          ] as const,
        ]),
  ];
  return (
    <section class="card" aria-labelledby="facts">
      <h2 id="facts">Facts</h2>
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

const endOf = (token: Token) =>
  token.revokeTime !== undefined
    ? millis(token.revokeTime)
    : token.expireTime === undefined
      ? undefined
      : millis(token.expireTime);

function Family({ token, rows }: { token: Token; rows: readonly Token[] | undefined }) {
  const sorted = [...(rows ?? [])].sort((a, b) => millis(a.createTime!) - millis(b.createTime!)).slice(-6);
  return (
    <section class="card" aria-labelledby="rotation">
      <h2 id="rotation">Rotation</h2>
      {sorted.length < 2 ? (
        <p class="muted pad">It was never rotated.</p>
      ) : (
        <>
          <Chart rows={sorted} />
          <ol class="events">
            {[...sorted].reverse().map((one) => (
              <li key={one.id} class={one.state === TokenState.REVOKED ? "bad" : ""}>
                {one.id === token.id ? (
                  <code>{one.hint}</code>
                ) : (
                  <a href={href(`/tokens/${one.id}`)}>
                    <code>{one.hint}</code>
                  </a>
                )}{" "}
                {one.rotatedFrom === "" ? "created" : "made by rotation"}, <State of={one} />
                <span class="sub">
                  <Moment at={one.createTime} /> by {visible(one.createdBy)}
                </span>
              </li>
            ))}
          </ol>
        </>
      )}
    </section>
  );
}

function Chart({ rows }: { rows: readonly Token[] }) {
  const at = now();
  const from = millis(rows[0]!.createTime!);
  const ends = rows.map((row) => endOf(row) ?? at + (at - from) * 0.3);
  const to = Math.max(at + (at - from) * 0.15, Math.min(Math.max(...ends), at + Math.max((at - from) * 2, 3_600_000)));
  const x = (ms: number) => 4 + (Math.min(Math.max(ms, from), to) - from) * (452 / Math.max(1, to - from));
  const height = rows.length * 36 + 24;
  const label = rows
    .map((row, i) => `${row.hint} from ${dateText(millis(row.createTime!))} to ${dateText(ends[i]!)}`)
    .join("; ");
  return (
    <figure>
      <svg class="bars" viewBox={`0 0 460 ${height}`} role="img" aria-label={`Tokens of this family: ${label}`}>
        {rows.map((row, i) => {
          const left = x(millis(row.createTime!));
          const width = Math.max(3, x(ends[i]!) - left);
          const next = rows[i + 1];
          const shared = next === undefined ? left + width : x(millis(next.createTime!));
          const y = 18 + i * 36;
          return (
            <g key={row.id}>
              <text x={left > 300 ? left + width : left} y={y - 5} text-anchor={left > 300 ? "end" : "start"}>
                {row.hint}
              </text>
              <rect class={i === rows.length - 1 ? "new" : "old"} x={left} y={y} width={width} height="14" rx="4" />
              {shared < left + width && (
                <rect class="both" x={shared} y={y} width={left + width - shared} height="14" />
              )}
            </g>
          );
        })}
        <path class="now" d={`M${x(at)} 4v${height - 20}`} stroke-dasharray="3 3" />
        <path class="axis" d={`M0 ${height - 16}h460`} />
        {x(at) > 110 && (
          <text x="0" y={height - 2}>
            {dateText(from)}
          </text>
        )}
        <text x={x(at)} y={height - 2} text-anchor={x(at) < 20 ? "start" : "middle"}>
          now
        </text>
      </svg>
    </figure>
  );
}

function Children({ token }: { token: Token }) {
  const list = useLoad(`minted|${token.id}`, async (signal) => {
    const { tokens: rows } = await tokens.listTokens(
      { tenant: token.tenant, parent: token.id, pageSize: 20 },
      { signal },
    );
    return rows;
  });
  if (list.data === undefined || list.data.length === 0) return null;
  return (
    <section class="card" aria-labelledby="children">
      <h2 id="children">Tokens that it minted</h2>
      <ul class="events">
        {list.data.map((one) => (
          <li key={one.id}>
            <a href={href(`/tokens/${one.id}`)}>
              <code>{one.hint}</code>
            </a>{" "}
            <State of={one} />
          </li>
        ))}
      </ul>
    </section>
  );
}

function History({ token }: { token: Token }) {
  const list = useLoad(`history|${token.id}|${token.etag}`, async (signal) => {
    const { events } = await audit.listAuditEvents(
      { tenant: token.tenant, target: `token:${token.id}`, pageSize: 20 },
      { signal },
    );
    return events;
  });
  return (
    <section class="card" aria-labelledby="history">
      <h2 id="history">Audit</h2>
      <div class="pad">
        <Reading of={list}>
          {(events) =>
            events.length === 0 ? (
              <Empty>
                <p class="muted">Nothing was recorded.</p>
              </Empty>
            ) : (
              <ol class="events">
                {events.map((event) => (
                  <li key={String(event.sequence)}>
                    <code>{event.action}</code> by <Foreign text={event.actor} />
                    <span class="sub">
                      <Moment at={event.time} />
                      {event.actorAddress && ` from ${event.actorAddress}`}
                      {Object.entries(event.metadata).map(([name, value]) => ` · ${visible(name)} ${visible(value)}`)}
                    </span>
                  </li>
                ))}
              </ol>
            )
          }
        </Reading>
      </div>
    </section>
  );
}
