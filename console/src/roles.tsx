import { useState } from "preact/hooks";
import type { Role } from "../gen/sallyport/v1/role_admin_pb.ts";
import { useLoad } from "./load.ts";
import { Conflict, Dialog, Field, Foot, Foreign, Icon, Note, Problem, Scopes, When } from "./parts.tsx";
import { one, pending, Rows, tell } from "./rows.tsx";
import { changes, href, may, notes } from "./state.ts";
import { holdsToken, visible, words } from "./text.ts";
import { type Failure, failureOf, problemOf, roles, surely } from "./wire.ts";

const PAGE = "/roles";
const WRITE = "sallyport.roles.write";

export function Roles() {
  const [pages, setPages] = useState<readonly string[]>([""]);
  const [dialog, setDialog] = useState<"create" | { readonly of: Role; readonly what: "edit" | "delete" } | undefined>(
    undefined,
  );
  const pageToken = pages.at(-1)!;
  const list = useLoad(`roles|${pageToken}`, async (signal) => {
    const { roles: rows, nextPageToken: next } = await roles.listRoles({ tenant: one(), pageToken }, { signal });
    return { rows, next };
  });
  const why = may(WRITE) ? undefined : `Needs ${WRITE}`;
  const locked = { "aria-disabled": why !== undefined, title: why };
  const open = (next: typeof dialog) => why === undefined && setDialog(next);
  const close = () => setDialog(undefined);
  return (
    <>
      <div class="title">
        <h1>Roles</h1>
        <div class="actions">
          <button type="button" class="primary" {...locked} onClick={() => open("create")}>
            <Icon name="plus" />
            New role
          </button>
        </div>
      </div>
      <div class="stack gap">
        {why !== undefined && (
          <p class="small muted">
            To create or change a role, your token needs the permission <code>{WRITE}</code>.
          </p>
        )}
        {notes.value.get(PAGE) as never}
      </div>
      <Rows<Role>
        title="Roles"
        list={list}
        columns={["Role", "Scopes", "Tokens", "Created", "Actions"]}
        keyOf={({ id }) => id}
        cells={(row) => [
          <>
            <strong>{row.name}</strong>
            {row.administrative && <span class="sub">Administrative</span>}
            {row.description !== "" && (
              <span class="sub">
                <Foreign text={row.description} />
              </span>
            )}
          </>,
          row.scopes.length === 0 ? <span class="muted">none</span> : <Scopes key="s" of={row.scopes} most={4} />,
          <Holders key="t" of={row} />,
          <When key="c" at={row.createTime} />,
          <span key="a" class="actions">
            {(["edit", "delete"] as const).map((what) => {
              const verb = what === "edit" ? "Edit" : "Delete";
              return (
                <button
                  key={what}
                  type="button"
                  class="plain quiet"
                  aria-label={`${verb} ${row.name}`}
                  {...locked}
                  onClick={() => open({ of: row, what })}
                >
                  {verb}…
                </button>
              );
            })}
          </span>,
        ]}
        pages={pages}
        setPages={setPages}
        empty={
          <>
            <h2>No roles yet</h2>
            <p class="muted">A role is a named list of scopes. The tokens that hold it have them, as they are now.</p>
          </>
        }
      />
      {dialog === "create" && <RoleForm onClose={close} />}
      {typeof dialog === "object" && dialog.what === "edit" && <RoleForm role={dialog.of} onClose={close} />}
      {typeof dialog === "object" && dialog.what === "delete" && <Delete role={dialog.of} onClose={close} />}
    </>
  );
}

function Holders({ of }: { of: Role }) {
  return (
    <a href={href("/tokens", { role: of.name })} aria-label={`Show the tokens that hold ${of.name}`}>
      Show
    </a>
  );
}

const FIELDS = [
  ["name", "Name", "A small letter, then small letters, digits and hyphens. It cannot change"],
  ["description", "Description (optional)", "For people"],
  ["scopes", "Scopes", "Separated by spaces"],
] as const;
type Name = (typeof FIELDS)[number][0];
const formOf = (of: Role | undefined): Readonly<Record<Name, string>> => ({
  name: of?.name ?? "",
  description: of?.description ?? "",
  scopes: (of?.scopes ?? []).join(" "),
});

/** Creates a role, or changes one. Its name and its kind stay. */
function RoleForm({ role, onClose }: { role?: Role; onClose: () => void }) {
  const where = role?.tenant ?? one();
  const [base, setBase] = useState(role);
  const [form, setForm] = useState(formOf(role));
  const [administrative, setAdministrative] = useState(false);
  const [theirs, setTheirs] = useState<Role | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const shown = FIELDS.filter(([name]) => role === undefined || name !== "name");
  const before = formOf(base);
  const paths = shown.map(([name]) => name).filter((name) => form[name] !== before[name]);
  const secret = (name: Name) => (holdsToken(form[name]) ? "This looks like a token" : undefined);
  const locked = busy || theirs !== undefined || shown.some(([name]) => secret(name));
  const problem = (name: Name) => secret(name) ?? problemOf(failure, name);
  const leave = () => {
    changes.value++;
    onClose();
  };
  const send = async () => {
    const { description } = form;
    const scopes = words(form.scopes);
    if (base === undefined) {
      const name = form.name.trim();
      // Not repeated: a second one would say that the name is taken.
      await roles.createRole({ role: { tenant: where, name, description, scopes, administrative } });
      return tell(PAGE, undefined, `Created ${visible(name)}`);
    }
    const { name, etag } = base;
    const { effect } = await surely(() =>
      roles.updateRole({ role: { tenant: where, name, etag, description, scopes }, updateMask: { paths } }),
    );
    tell(PAGE, effect, `Changed ${name}`);
  };
  const submit = async () => {
    if (locked) return;
    if (base !== undefined && paths.length === 0) return onClose();
    setBusy(true);
    setFailure(undefined);
    try {
      await send();
      leave();
    } catch (error) {
      const failed = failureOf(error);
      if (base !== undefined && pending(PAGE, failed, `Changed ${base.name}`)) return leave();
      const now =
        failed.reason === "ETAG_MISMATCH"
          ? await roles.getRole({ tenant: where, name: base!.name }).catch(() => undefined)
          : undefined;
      setBusy(false);
      if (now?.role === undefined) setFailure(failed);
      else setTheirs(now.role);
    }
  };
  return (
    <Dialog
      title={role === undefined ? "New role" : `Edit ${role.name}`}
      text={
        role === undefined
          ? `In ${where || "your tenant"}.`
          : `${role.administrative ? "Administrative. " : ""}At once, each token that holds it gains the scopes that you add, and loses those that you remove unless it has them otherwise.`
      }
      onClose={() => busy || onClose()}
      onSubmit={submit}
      foot={
        <Foot
          busy={busy}
          {...(role === undefined && { doing: "Working" })}
          verb={role === undefined ? "Create" : "Save"}
          locked={locked}
          onClose={onClose}
        />
      }
    >
      {theirs !== undefined && (
        <Conflict
          fields={shown}
          theirs={formOf(theirs)}
          mine={form}
          onTake={() => {
            setBase(theirs);
            setForm(formOf(theirs));
            setTheirs(undefined);
          }}
          onKeep={() => {
            setBase(theirs);
            setTheirs(undefined);
          }}
        />
      )}
      {shown.map(([name, label, hint], i) => (
        <Field key={name} label={label} hint={hint} problem={problem(name)}>
          {(attributes) => (
            <input
              {...attributes}
              {...(i === 0 && { "data-first": true })}
              value={form[name]}
              autocomplete="off"
              spellcheck={false}
              onInput={(event) => setForm({ ...form, [name]: event.currentTarget.value })}
            />
          )}
        </Field>
      ))}
      {role === undefined && (
        <label class="check">
          <input
            type="checkbox"
            checked={administrative}
            onChange={(event) => setAdministrative(event.currentTarget.checked)}
          />{" "}
          Administrative: it may hold <code>sallyport.*</code> scopes. It cannot change
        </label>
      )}
      {failure !== undefined && <Problem failure={failure} />}
    </Dialog>
  );
}

/** Deletes a role. Only after the server said that live tokens hold it, it offers to take it from them. */
function Delete({ role, onClose }: { role: Role; onClose: () => void }) {
  const [held, setHeld] = useState(false);
  const [force, setForce] = useState(false);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const { tenant: where, name } = role;
  const locked = busy || (held && !force);
  const leave = () => {
    changes.value++;
    onClose();
  };
  const submit = async () => {
    if (locked) return;
    setBusy(true);
    setFailure(undefined);
    try {
      const { effect } = await surely(() => roles.deleteRole({ tenant: where, name, force }));
      tell(PAGE, effect, `Deleted ${name}`);
      leave();
    } catch (error) {
      const failed = failureOf(error);
      if (pending(PAGE, failed, `Deleted ${name}`)) return leave();
      setBusy(false);
      if (failed.reason === "ROLE_IN_USE") setHeld(true);
      else setFailure(failed);
    }
  };
  return (
    <Dialog
      title={`Delete ${name}?`}
      text="For good. A role of the same name that is created later is another one."
      onClose={() => busy || onClose()}
      onSubmit={submit}
      foot={<Foot busy={busy} verb="Delete" danger locked={locked} first="cancel" onClose={onClose} />}
    >
      <dl class="facts card">
        <div>
          <dt>Scopes</dt>
          <dd>{role.scopes.length === 0 ? "none" : <Scopes of={role.scopes} most={100} />}</dd>
        </div>
        <div>
          <dt>Tenant</dt>
          <dd>{where}</dd>
        </div>
      </dl>
      {held && (
        <Note kind="warn" live>
          <strong>Live tokens hold it.</strong> <code>ROLE_IN_USE</code>{" "}
          <a href={href("/tokens", { role: name })} onClick={onClose}>
            Show them
          </a>
          , and take it from each, or delete it all the same.
        </Note>
      )}
      {held && (
        <label class="check">
          <input type="checkbox" checked={force} onChange={(event) => setForce(event.currentTarget.checked)} /> Take it
          from them: they lose its scopes at once
        </label>
      )}
      {failure !== undefined && <Problem failure={failure} />}
    </Dialog>
  );
}
