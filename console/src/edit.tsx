import { useState } from "preact/hooks";
import type { Token } from "../gen/sallyport/v1/token_admin_pb.ts";
import { Conflict, Dialog, Field, Foot, nameOf, Problem } from "./parts.tsx";
import { pending, tell } from "./rows.tsx";
import { changes } from "./state.ts";
import { holdsToken, words } from "./text.ts";
import { type Failure, failureOf, problemOf, surely, tokens } from "./wire.ts";

const FIELDS = [
  ["display_name", "Name", ""],
  ["description", "Description", ""],
  ["scopes", "Scopes", "Separated by spaces"],
  ["roles", "Roles", "Separated by spaces. The token has their scopes, too"],
  ["audiences", "Audiences", "Separated by spaces; empty: everywhere"],
  ["allowed_cidrs", "Networks", "Separated by spaces; empty: everywhere"],
] as const;
type Name = (typeof FIELDS)[number][0];

const formOf = (of: Token): Record<Name, string> => ({
  display_name: of.displayName,
  description: of.description,
  scopes: of.scopes.join(" "),
  roles: of.roles.join(" "),
  audiences: of.audiences.join(" "),
  allowed_cidrs: of.allowedCidrs.join(" "),
});

export function Edit({ token, onClose }: { token: Token; onClose: () => void }) {
  const [base, setBase] = useState(token);
  const [form, setForm] = useState(formOf(token));
  const [disabled, setDisabled] = useState(token.disabled);
  const [theirs, setTheirs] = useState<Token | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const before = formOf(base);
  const changed = FIELDS.map(([name]) => name).filter((name) => form[name] !== before[name]);
  const paths = [...changed, ...(disabled === base.disabled ? [] : ["disabled"])];
  const secret = (name: Name) => (holdsToken(form[name]) ? "This looks like a token" : undefined);
  const leave = () => {
    changes.value++;
    onClose();
  };
  const submit = async () => {
    if (busy || FIELDS.some(([name]) => secret(name))) return;
    if (paths.length === 0) return onClose();
    setBusy(true);
    setFailure(undefined);
    try {
      const { effect } = await surely(() =>
        tokens.updateToken({
          token: {
            id: token.id,
            etag: base.etag,
            displayName: form.display_name,
            description: form.description,
            scopes: words(form.scopes),
            roles: words(form.roles),
            audiences: words(form.audiences),
            allowedCidrs: words(form.allowed_cidrs),
            disabled,
          },
          updateMask: { paths },
        }),
      );
      tell(token.id, effect, "Changed");
      leave();
    } catch (error) {
      const failed = failureOf(error);
      // Its etag is an old one now.
      if (pending(token.id, failed, "Changed")) return leave();
      setBusy(false);
      if (failed.reason === "ETAG_MISMATCH") {
        const now = await tokens.getToken({ id: token.id }).catch(() => undefined);
        if (now?.token !== undefined) return setTheirs(now.token);
      }
      setFailure(failed);
    }
  };
  return (
    <Dialog
      title={`Edit ${nameOf(token)}`}
      onClose={() => busy || onClose()}
      onSubmit={submit}
      foot={<Foot busy={busy} verb="Save" locked={busy || theirs !== undefined} onClose={onClose} />}
    >
      {theirs !== undefined && (
        <Conflict
          fields={FIELDS}
          theirs={formOf(theirs)}
          mine={form}
          onTake={() => {
            setBase(theirs);
            setForm(formOf(theirs));
            setDisabled(theirs.disabled);
            setTheirs(undefined);
          }}
          onKeep={() => {
            setBase(theirs);
            setTheirs(undefined);
          }}
        />
      )}
      {FIELDS.map(([name, label, hint], i) => (
        <Field key={name} label={label} hint={hint} problem={secret(name) ?? problemOf(failure, name)}>
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
      <label class="check">
        <input type="checkbox" checked={disabled} onChange={(event) => setDisabled(event.currentTarget.checked)} />{" "}
        Disabled: refused for now
      </label>
      {failure !== undefined && <Problem failure={failure} />}
    </Dialog>
  );
}
