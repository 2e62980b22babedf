import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { InstanceState } from "../gen/sallyport/v1/server_info_pb.ts";
import type { Token } from "../gen/sallyport/v1/token_admin_pb.ts";
import { useLoad } from "./load.ts";
import { Foreign, Gate, Icon, Note, State } from "./parts.tsx";
import { prefer, THEMES, theme } from "./preferences.ts";
import { go, href, isSecret, leave, may, me, route, settings, signIn, tenant } from "./state.ts";
import { findToken, millis, utc, waitText } from "./text.ts";
import { failureOf, info, tenants, tokens } from "./wire.ts";

type IconName = Parameters<typeof Icon>[0]["name"];

function Links({ title, links }: { title: string; links: (readonly [path: string, icon: IconName, text: string])[] }) {
  if (links.length === 0) return null;
  const here = route.value.path;
  return (
    <div class="nav-group">
      <h2>{title}</h2>
      <ul>
        {links.map(([path, icon, text]) => (
          <li key={path}>
            <a href={href(path)} aria-current={here === path || here.startsWith(`${path}/`) ? "page" : undefined}>
              <Icon name={icon} />
              {text}
            </a>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** Menu, tenant, search and account around a page. */
export function Shell({ children }: { children: ComponentChildren }) {
  const [open, setOpen] = useState(false);
  const { caller, version } = me.value!;
  const { path } = route.value;
  useEffect(() => setOpen(false), [path]);
  const operator = may("sallyport.operator");
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          document.getElementById("main")?.focus();
        }}
      >
        Skip to content
      </a>
      <div class="app">
        <nav class={open ? "side open" : "side"} aria-label="Main">
          <a class="brand" href={href(home())}>
            <Gate />
            Sallyport
          </a>
          <button
            class="menu plain"
            type="button"
            aria-expanded={open}
            aria-label="Menu"
            onClick={() => setOpen(!open)}
          >
            <Icon name="menu" />
          </button>
          <div class="links">
            <Links title="You" links={caller!.principal === "" ? [] : [["/mine", "key", "My tokens"]]} />
            <Links
              title="Tenant"
              links={[
                ...(may("sallyport.tokens.read") ? [["/tokens", "keys", "All tokens"] as const] : []),
                ...(may("sallyport.principals.write") ? [["/principals", "people", "Principals"] as const] : []),
                ...(may("sallyport.tokens.read") ? [["/roles", "shield", "Roles"] as const] : []),
                ...(may("sallyport.audit.read") ? [["/audit", "log", "Audit"] as const] : []),
              ]}
            />
            <Links
              title="Operator"
              links={
                operator
                  ? [
                      ["/tenants", "org", "Tenants"],
                      ["/status", "pulse", "Status"],
                    ]
                  : []
              }
            />
            <Preferences />
          </div>
          {operator && <InSync />}
        </nav>
        <div>
          <header class="top">
            {operator ? (
              <TenantPicker />
            ) : caller!.tenants.length > 1 ? (
              <OwnTenants of={caller!.tenants} />
            ) : (
              <span class="tenant">{tenant.value}</span>
            )}
            <Find />
            <div class="who">
              <span class="small muted">
                <Foreign text={caller!.principal || caller!.provenance} />
              </span>
              <button class="plain" type="button" onClick={() => void leave()}>
                <Icon name="out" />
                <span>Sign out</span>
              </button>
            </div>
          </header>
          <main id="main" tabindex={-1}>
            {settings.value !== undefined && version !== settings.value.version && (
              <Note kind="warn" live>
                The server has another version by now.{" "}
                <button type="button" class="link" onClick={() => location.reload()}>
                  Reload
                </button>{" "}
                to get its page.
              </Note>
            )}
            {children}
          </main>
        </div>
      </div>
    </>
  );
}

export const home = () => (may("sallyport.tokens.read") ? "/tokens" : "/mine");

function Preferences() {
  return (
    <div class="nav-group" role="group" aria-label="This browser">
      <h2>This browser</h2>
      <label class="chip">
        <span class="hidden">Theme</span>
        <select
          value={theme.value}
          onChange={(event) => prefer({ theme: THEMES.find((one) => one === event.currentTarget.value) ?? "system" })}
        >
          <option value="system">System theme</option>
          <option value="light">Light</option>
          <option value="dark">Dark</option>
        </select>
      </label>
      <label class="chip">
        <span class="hidden">Times</span>
        <select value={String(utc.value)} onChange={(event) => prefer({ utc: event.currentTarget.value === "true" })}>
          <option value="false">Local times</option>
          <option value="true">UTC</option>
        </select>
      </label>
    </div>
  );
}

function InSync() {
  const status = useLoad("in-sync", (signal) => info.listInstances({}, { signal }));
  if (status.data === undefined) return null;
  const { instances, headPosition, lastWait } = status.data;
  const live = instances.filter(({ state }) => state === InstanceState.LIVE);
  const inSync = live.filter(({ appliedPosition }) => appliedPosition >= headPosition).length;
  return (
    <a class="force" href={href("/status")}>
      <strong class={inSync === instances.length ? "" : "behind"}>
        {inSync} of {instances.length} instance{instances.length === 1 ? "" : "s"} in sync
      </strong>
      {lastWait?.waited !== undefined && (
        <span class="muted">Last revocation: {waitText(millis(lastWait.waited))}</span>
      )}
    </a>
  );
}

function TenantPicker() {
  const list = useLoad("tenants", (signal) => tenants.listTenants({ pageSize: 500 }, { signal }));
  const ids = new Set([...(list.data?.tenants.map(({ id }) => id) ?? []), tenant.value].filter((id) => id !== "-"));
  return (
    <label class="tenant">
      <span class="hidden">Tenant</span>
      <select value={tenant.value} onChange={(event) => (tenant.value = event.currentTarget.value)}>
        {[...ids].sort().map((id) => (
          <option key={id} value={id}>
            {id}
          </option>
        ))}
        <option value="-">All tenants</option>
      </select>
    </label>
  );
}

/** A session acts in one of its tenants at a time, with the rights that it has there. */
function OwnTenants({ of }: { of: readonly string[] }) {
  const change = (event: Event) => {
    const chosen = (event.currentTarget as HTMLSelectElement).value;
    signIn({ tenant: chosen }).catch(() => undefined);
  };
  return (
    <label class="tenant">
      <span class="hidden">Tenant</span>
      <select value={tenant.value} onChange={change}>
        {[...of].sort().map((id) => (
          <option key={id} value={id}>
            {id}
          </option>
        ))}
      </select>
    </label>
  );
}

type Found = { readonly said: string; readonly sent: string; readonly token?: Token } | undefined;
const KEPT = "The text was not sent and is gone from the field.";

/** Searches. A token string that somebody pastes is taken out of the field at once, and never sent. */
function Find() {
  const field = useRef<HTMLInputElement>(null);
  const [found, setFound] = useState<Found>(undefined);
  /** The answer about an earlier text must not take the place of what is said about a later one. */
  const turn = useRef(0);
  const say = (next: Found, of = ++turn.current) => {
    if (of === turn.current) setFound(next);
  };
  useEffect(() => {
    const focus = (event: KeyboardEvent) => {
      if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      field.current?.focus();
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  }, []);
  const one = async (request: { hint?: string; ids?: string[] }, sent = "") => {
    const where = may("sallyport.operator") ? "-" : "";
    say({ said: "Looking…", sent });
    const mine = turn.current;
    try {
      const [token] = (await tokens.listTokens({ tenant: where, ...request })).tokens;
      if (token === undefined) return say({ said: "Unknown here.", sent }, mine);
      say({ said: "Known here.", sent, token }, mine);
    } catch (error) {
      say({ said: `${failureOf(error).title}.`, sent }, mine);
    }
  };
  const lookAt = (text: string): boolean => {
    const find = findToken(text);
    if (find.kind === "no token" && !isSecret(text)) return false;
    field.current!.value = "";
    if (find.kind === "no token") say({ said: "This looks like a secret, or a part of one.", sent: KEPT });
    else if (find.kind === "foreign") say({ said: "Not a Sallyport token.", sent: KEPT });
    else if (find.kind === "damaged") say({ said: "Wrong checksum: a part is missing or mistyped.", sent: KEPT });
    else if (find.kind === "hint")
      void one({ hint: find.hint }, "Only its hint was sent; the text is gone from the field.");
    else void one({ ids: [find.id] }, "Only its id was sent; the text is gone from the field.");
    return true;
  };
  const submit = (event: Event) => {
    event.preventDefault();
    const text = field.current!.value.trim();
    if (text === "" || lookAt(text)) return;
    say(undefined);
    if (/^tok_[0-9A-Za-z]{22}$/.test(text)) return go(`/tokens/${text}`);
    if (/^[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{9}$/.test(text)) return void one({ hint: text });
    const path = may("sallyport.tokens.read") ? "/tokens" : "/mine";
    go(path, /^(user|bot|service|org):/.test(text) ? { principal: text } : { name: text });
    field.current!.value = "";
  };
  return (
    <form class="find" role="search" onSubmit={submit}>
      <Icon name="find" />
      <input
        ref={field}
        type="search"
        aria-label="Find a token"
        placeholder="Search, or paste a token you found"
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => lookAt(event.currentTarget.value)}
      />
      <kbd aria-hidden="true">Ctrl K</kbd>
      <div class={found === undefined ? "found empty" : "found"} role="status">
        {found !== undefined && (
          <>
            <p>
              <strong>{found.said}</strong> {found.sent}
            </p>
            {found.token !== undefined && (
              <p>
                <State of={found.token} />{" "}
                <a href={href(`/tokens/${found.token.id}`)} onClick={() => say(undefined)}>
                  <code>{found.token.hint}</code>
                </a>{" "}
                of <Foreign text={found.token.principal} />{" "}
                <a
                  class="button danger"
                  href={href(`/tokens/${found.token.id}`, { revoke: "1" })}
                  onClick={() => say(undefined)}
                >
                  Revoke…
                </a>
              </p>
            )}
            <button type="button" class="plain" onClick={() => say(undefined)}>
              Dismiss
            </button>
          </>
        )}
      </div>
    </form>
  );
}
