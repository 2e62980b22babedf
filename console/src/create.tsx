import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useLoad } from "./load.ts";
import { Dialog, Field, Foot, Icon, Note, Problem, Segments } from "./parts.tsx";
import { reveal } from "./reveal.tsx";
import { changes, go, homeTenant, href, making, may, me, now, tenant } from "./state.ts";
import { DAY, holdsToken, longTimeText, millis, spanText, stampOf, words } from "./text.ts";
import { type Failure, failureOf, principals, problemOf, tokens } from "./wire.ts";

const TYPES = [
  ["user", "A person"],
  ["bot", "A bot"],
  ["service", "A service"],
  ["org", "The organization"],
] as const;
type Type = (typeof TYPES)[number][0];
/** A repeat with the same request id gets the first answer for ten minutes. */
const REPEATABLE_MS = 600_000;

export function Create({ mine, onClose }: { mine: boolean; onClose: () => void }) {
  const info = me.value!;
  const own = info.caller!.principal;
  const where = mine ? homeTenant() : tenant.value;
  const creatable = info.profiles.filter(({ canCreate }) => canCreate);
  const types = TYPES.filter(([type]) => creatable.some(({ principalTypes }) => principalTypes.includes(type)));
  const [type, setType] = useState<Type>((mine ? own.split(":")[0] : types[0]![0]) as Type);
  const fitting = creatable.filter(({ principalTypes }) => principalTypes.includes(type));
  const [chosen, setChosen] = useState("");
  const profile = fitting.find(({ name }) => name === chosen) ?? fitting[0];
  const [principal, setPrincipal] = useState(mine ? own : "");
  const [displayName, setDisplayName] = useState("");
  const [scopes, setScopes] = useState<readonly string[]>([]);
  const [typed, setTyped] = useState("");
  const [expiry, setExpiry] = useState("default");
  const [date, setDate] = useState("");
  const [more, setMore] = useState({
    description: "",
    roles: "",
    audiences: "",
    allowed_cidrs: "",
    not_before_time: "",
  });
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const form = {
    tenant: where,
    profile: profile?.name ?? "",
    principal,
    displayName,
    scopes,
    expiry,
    date,
    more,
  };
  const text = JSON.stringify({ ...form, typed });
  // Made at the first Create, and kept until the form changes: a repeat makes no second token.
  const asked = useRef<{ id: string; text: string; at: number } | undefined>(undefined);
  const fields = useRef<HTMLDivElement>(null);

  const maxTtl = profile?.maxTtl === undefined ? 0 : millis(profile.maxTtl);
  const defaultTtl = profile?.defaultTtl === undefined ? 0 : Math.min(millis(profile.defaultTtl), maxTtl);
  const presets = [7, 30, 90, 365].map((days) => days * DAY).filter((ttl) => ttl <= maxTtl && ttl !== defaultTtl);
  const ttls = [...presets, defaultTtl].sort((a, b) => a - b);
  const options: (readonly [string, string])[] = [
    ...ttls.map((ttl) => [ttl === defaultTtl ? "default" : String(ttl), spanText(ttl)] as const),
    ["date", "Date…"],
    ...(profile?.allowNoExpiry ? [["never", "Never"] as const] : []),
  ];
  const ttl = expiry === "default" ? defaultTtl : Number(expiry);
  const end = expiry === "never" ? undefined : expiry === "date" ? Date.parse(`${date}T00:00`) : now() + ttl;

  const full = principal.includes(":") || principal === "" ? principal : `${type}:${principal}`;
  const known = useLoad(`principals|${where}|${type}`, async (signal) =>
    may("sallyport.principals.write")
      ? (await principals.listPrincipals({ tenant: where, type, pageSize: 100 }, { signal })).principals
      : [],
  );
  const owner = known.data?.find(({ name }) => name === full);

  const secrets = useMemo(
    () =>
      new Map(
        Object.entries({ principal, display_name: displayName, scopes: `${scopes.join(" ")} ${typed}`, ...more })
          .filter(([, value]) => holdsToken(value))
          .map(([name]) => [name, "This looks like a token"] as const),
      ),
    [text],
  );
  const problem = (name: string) => secrets.get(name) ?? problemOf(failure, name);
  const addScopes = (value: string) => {
    setScopes([...new Set([...scopes, ...words(value)])]);
    setTyped("");
  };

  useEffect(() => {
    if (failure !== undefined && failure.fields.size > 0) {
      fields.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
    }
  }, [failure]);

  const submit = async () => {
    if (busy || secrets.size > 0) return;
    setBusy(true);
    setFailure(undefined);
    if (asked.current?.text !== text) asked.current = { id: crypto.randomUUID(), text, at: Date.now() };
    const { id: requestId } = asked.current;
    try {
      const call = () =>
        tokens.createToken({
          tenant: form.tenant,
          profile: form.profile,
          principal: full,
          displayName,
          scopes: [...new Set([...scopes, ...words(typed)])],
          lifetime:
            expiry === "never"
              ? { case: "noExpiry", value: true }
              : expiry === "date"
                ? { case: "expireTime", value: stampOf(end!) }
                : expiry === "default"
                  ? { case: undefined }
                  : { case: "ttl", value: stampOf(ttl) },
          description: more.description,
          roles: words(more.roles),
          audiences: words(more.audiences),
          allowedCidrs: words(more.allowed_cidrs),
          notBeforeTime: more.not_before_time === "" ? undefined : stampOf(Date.parse(more.not_before_time)),
          requestId,
        });
      await making(requestId, call, (response) => {
        const { id } = response.token!;
        onClose();
        reveal(response, () => go(`/tokens/${id}`));
        changes.value++;
      });
    } catch (error) {
      setFailure(failureOf(error));
      setBusy(false);
    }
  };

  const lost = failure?.unsure === true && asked.current?.text === text;
  const late = lost && Date.now() - asked.current!.at > REPEATABLE_MS;
  return (
    <Dialog
      title="New token"
      text={`In ${where}. You will see the token once, after it is created.`}
      onClose={() => busy || onClose()}
      onSubmit={submit}
      foot={
        <Foot
          busy={busy}
          doing="Creating"
          idle="The audit log will name you as creator."
          verb={lost ? "Try again" : "Create token"}
          locked={busy || secrets.size > 0}
          onClose={onClose}
        />
      }
    >
      <div class="stack" ref={fields}>
        {types.length > 1 && !mine && (
          <Segments legend="For" value={type} options={types} onChange={(value) => setType(value)} />
        )}
        {fitting.length > 1 && (
          <Field label="Type" problem={problem("profile")}>
            {(attributes) => (
              <select {...attributes} value={profile?.name} onChange={(event) => setChosen(event.currentTarget.value)}>
                {fitting.map(({ name, prefix }) => (
                  <option key={name} value={name}>
                    {name} ({prefix}_…)
                  </option>
                ))}
              </select>
            )}
          </Field>
        )}
        <div class="two">
          <Field
            label={TYPES.find(([one]) => one === type)![1].replace(/^(A|The) (.)/, (_, _article, first) =>
              first.toUpperCase(),
            )}
            problem={problem("principal")}
            hint={
              owner === undefined
                ? type === "user" || type === "org"
                  ? "Any name: it need not be registered"
                  : "It must be registered"
                : [owner.displayName, owner.owner && `owned by ${owner.owner}`].filter(Boolean).join(" · ") ||
                  "Registered"
            }
          >
            {(attributes) => (
              <>
                <input
                  {...attributes}
                  data-first
                  list="known-principals"
                  autocomplete="off"
                  spellcheck={false}
                  readOnly={mine}
                  value={principal}
                  placeholder={`${type}:…`}
                  onInput={(event) => setPrincipal(event.currentTarget.value)}
                />
                <datalist id="known-principals">
                  {known.data?.map(({ name }) => (
                    <option key={name} value={name} />
                  ))}
                </datalist>
              </>
            )}
          </Field>
          <Field
            label={profile?.allowEmptyName ? "Name (optional)" : "Name"}
            hint="What it is used for"
            problem={problem("display_name")}
          >
            {(attributes) => (
              <input
                {...attributes}
                value={displayName}
                autocomplete="off"
                maxLength={100}
                onInput={(event) => setDisplayName(event.currentTarget.value)}
              />
            )}
          </Field>
        </div>
        <Field
          label="Scopes"
          problem={problem("scopes")}
          hint={
            <>
              Press Enter after each. <code>deploy:*</code> covers every scope that begins with <code>deploy:</code>
            </>
          }
        >
          {(attributes) => (
            <div class="pick">
              {scopes.map((scope) => (
                <span key={scope} class="scope">
                  {scope}
                  <button
                    type="button"
                    aria-label={`Remove ${scope}`}
                    onClick={() => setScopes(scopes.filter((one) => one !== scope))}
                  >
                    <Icon name="close" />
                  </button>
                </span>
              ))}
              <input
                {...attributes}
                value={typed}
                placeholder="Add a scope"
                autocomplete="off"
                spellcheck={false}
                onInput={(event) => setTyped(event.currentTarget.value)}
                onKeyDown={(event) => {
                  if (event.key !== "Enter" || typed.trim() === "") return;
                  event.preventDefault();
                  if (!holdsToken(typed)) addScopes(typed);
                }}
              />
            </div>
          )}
        </Field>
        <Segments
          legend="Expires after"
          value={options.some(([value]) => value === expiry) ? expiry : "default"}
          options={options}
          onChange={setExpiry}
          hint={
            <>
              {end === undefined ? "Never" : Number.isNaN(end) ? "Choose a date" : longTimeText(end)}. The profile{" "}
              <code>{profile?.name}</code> allows at most {spanText(maxTtl)}
              {profile?.allowNoExpiry ? ", or no end" : ""}.
            </>
          }
        />
        {expiry === "date" && (
          <Field label="Date" problem={problem("expire_time")}>
            {(attributes) => (
              <input {...attributes} type="date" value={date} onInput={(event) => setDate(event.currentTarget.value)} />
            )}
          </Field>
        )}
        <details
          open={["roles", "description", "audiences", "allowed_cidrs", "not_before_time"].some(problem) || undefined}
        >
          <summary>More: roles, networks, audiences, start time, description</summary>
          <div class="stack">
            {(
              [
                ["roles", "Roles", "Separated by spaces. The token has their scopes, too"],
                ["allowed_cidrs", "Networks", "Only from these addresses, such as 10.0.0.0/8"],
                ["audiences", "Audiences", "Only for these services; empty: everywhere"],
                ["not_before_time", "Not before", "It is refused until then"],
                ["description", "Description", "At most 500 characters"],
              ] as const
            ).map(([name, label, hint]) => (
              <Field key={name} label={label} hint={hint} problem={problem(name)}>
                {(attributes) => {
                  const shared = {
                    ...attributes,
                    value: more[name],
                    onInput: (event: { currentTarget: HTMLInputElement }) =>
                      setMore({ ...more, [name]: event.currentTarget.value }),
                  };
                  return name === "not_before_time" ? (
                    <input {...shared} type="datetime-local" />
                  ) : (
                    <input {...shared} autocomplete="off" />
                  );
                }}
              </Field>
            ))}
          </div>
        </details>
        {late ? (
          <Note kind="warn" live>
            <strong>A token may exist that nobody has seen.</strong>{" "}
            <a href={href("/tokens", { principal: full, created: "1" })} onClick={onClose}>
              Look for it
            </a>{" "}
            and revoke it.
          </Note>
        ) : (
          failure !== undefined &&
          (lost ? (
            <Note kind="warn" live>
              <strong>{failure.title}.</strong> The token may have been created. “Try again” repeats the same request,
              which makes no second token.
            </Note>
          ) : (
            <Problem failure={failure} />
          ))
        )}
      </div>
    </Dialog>
  );
}
