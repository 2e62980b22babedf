import { useState } from "preact/hooks";
import type { Token } from "../gen/sallyport/v1/token_admin_pb.ts";
import { Dialog, Field, Foot, Foreign, nameOf, Problem, State } from "./parts.tsx";
import { pending, tell } from "./rows.tsx";
import { changes, go, me, now } from "./state.ts";
import { holdsToken, stampOf } from "./text.ts";
import { type Failure, failureOf, problemOf, surely, tokens } from "./wire.ts";

interface Preview {
  readonly count: number;
  readonly rows: readonly Token[];
  readonly at: { seconds: bigint; nanos: number };
  readonly hitsMe: boolean;
}

/** Revokes many: by ticks or by selectors. First a count and the first rows, then the count typed by hand. */
export function Bulk(props: {
  path: string;
  tenant: string;
  ids: readonly string[] | undefined;
  onClose: (didIt: boolean) => void;
}) {
  const { path, onClose } = props;
  // As they were when the dialog opened: what is selected may change behind it, and no ids would mean every token.
  const [{ tenant, ids }] = useState(props);
  const [form, setForm] = useState({ principal: "", profile: "", createdBy: "" });
  const [reason, setReason] = useState("");
  const [preview, setPreview] = useState<Preview | undefined>(undefined);
  const [typed, setTyped] = useState("");
  const [meToo, setMeToo] = useState(false);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const mine = me.value!.caller!.tokenId;
  const selector = ids === undefined ? form : { ids: [...ids] };
  const empty = ids === undefined && Object.values(form).every((value) => value === "");
  const secret = holdsToken(`${Object.values(form).join(" ")} ${reason}`);
  // A whole principal is one cut, which has no time of its own.
  const isCut = ids === undefined && form.principal !== "" && form.profile === "" && form.createdBy === "";
  const request = (at: Preview["at"]) => ({
    tenant,
    ...selector,
    ...(!isCut && { createdBefore: at }),
  });

  const attempt = async (work: () => Promise<void>) => {
    setBusy(true);
    setFailure(undefined);
    try {
      await work();
    } catch (error) {
      setFailure(failureOf(error));
    }
    setBusy(false);
  };
  const look = () =>
    attempt(async () => {
      // The server's time, so that nothing newer than this preview is revoked.
      const at = stampOf(now());
      const { revokedCount, matchedIds } = await tokens.revokeTokens({ ...request(at), dryRun: true });
      const first = matchedIds.slice(0, 50);
      const { tokens: rows } = first.length === 0 ? { tokens: [] } : await tokens.listTokens({ tenant, ids: first });
      const own =
        ids === undefined && mine !== ""
          ? await tokens.revokeTokens({ ...request(at), ids: [mine], dryRun: true })
          : undefined;
      const hitsMe = ids === undefined ? (own?.revokedCount ?? 0) > 0 : ids.includes(mine);
      setPreview({ count: revokedCount, rows, at, hitsMe });
      setTyped("");
    });
  const apply = (shown: Preview) =>
    attempt(async () => {
      try {
        const { revokedCount, effect } = await surely(() => tokens.revokeTokens({ ...request(shown.at), reason }));
        tell(path, effect, `Revoked ${revokedCount} tokens`);
      } catch (error) {
        // How many they were comes with the proof only.
        if (!pending(path, failureOf(error), "Revoked the tokens")) throw error;
      }
      changes.value++;
      onClose(true);
      go(path);
    });
  const count = preview?.count ?? ids?.length ?? 0;
  const ready = preview !== undefined && typed.trim() === String(preview.count) && (!preview.hitsMe || meToo);
  return (
    <Dialog
      title={ids === undefined ? "Revoke many tokens" : `Revoke ${count} selected token${count === 1 ? "" : "s"}`}
      text={`In ${tenant}. They are refused everywhere, at once and for good.`}
      onClose={() => busy || onClose(false)}
      onSubmit={() => {
        if (busy || secret) return;
        if (preview === undefined) {
          if (!empty) void look();
        } else if (ready && preview.count > 0) void apply(preview);
      }}
      foot={
        <Foot
          busy={busy}
          doing="Working"
          verb={preview === undefined ? "Preview" : `Revoke ${preview.count}`}
          danger={preview !== undefined}
          locked={busy || (preview === undefined ? empty || secret : !ready || preview.count === 0)}
          first={ids === undefined ? undefined : "cancel"}
          onClose={() => onClose(false)}
        />
      }
    >
      {ids === undefined &&
        (
          [
            ["principal", "Principal", "user:ann, bot:ci-runner"],
            ["profile", "Profile", me.value!.profiles.map(({ name }) => name).join(", ")],
            ["createdBy", "Created by", "token:sp_adm_1x7Kd02Qa, bootstrap"],
          ] as const
        ).map(([name, label, hint], i) => (
          <Field
            key={name}
            label={label}
            hint={hint}
            problem={problemOf(failure, name === "createdBy" ? "created_by" : name)}
          >
            {(attributes) => (
              <input
                {...attributes}
                {...(i === 0 && { "data-first": true })}
                value={form[name]}
                autocomplete="off"
                spellcheck={false}
                onInput={(event) => {
                  setForm({ ...form, [name]: event.currentTarget.value.trim() });
                  setPreview(undefined);
                }}
              />
            )}
          </Field>
        ))}
      <Field
        label="Reason (optional)"
        hint="The audit log keeps it."
        problem={secret ? "This looks like a token" : undefined}
      >
        {(attributes) => (
          <input
            {...attributes}
            value={reason}
            maxLength={200}
            onInput={(event) => setReason(event.currentTarget.value)}
          />
        )}
      </Field>
      {preview !== undefined && (
        <section class="stack" aria-label="Preview">
          <p role="status">
            <strong>
              {preview.count} token{preview.count === 1 ? "" : "s"} would be revoked.
            </strong>
            {ids !== undefined &&
              preview.count < ids.length &&
              ` Of the ${ids.length} selected, ${ids.length - preview.count} ended before.`}
            {preview.count > preview.rows.length && preview.rows.length > 0 && ` The first ${preview.rows.length}:`}
          </p>
          {preview.rows.length > 0 && (
            <ul class="preview card">
              {preview.rows.map((row) => (
                <li key={row.id}>
                  <State of={row} /> <code>{row.hint}</code> <bdi>{nameOf(row)}</bdi>{" "}
                  <span class="muted">
                    <Foreign text={row.principal} />
                  </span>
                </li>
              ))}
            </ul>
          )}
          {preview.hitsMe && (
            <label class="check">
              <input type="checkbox" checked={meToo} onChange={(event) => setMeToo(event.currentTarget.checked)} /> Also
              my own token, with which I am signed in
            </label>
          )}
          {preview.count > 0 && (
            <Field label={`Type ${preview.count} to confirm`}>
              {(attributes) => (
                <input
                  {...attributes}
                  inputMode="numeric"
                  autocomplete="off"
                  value={typed}
                  onInput={(event) => setTyped(event.currentTarget.value)}
                />
              )}
            </Field>
          )}
        </section>
      )}
      {failure !== undefined && <Problem failure={failure} />}
    </Dialog>
  );
}
