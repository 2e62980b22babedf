import { useState } from "preact/hooks";
import type { Effect } from "../gen/sallyport/v1/effect_pb.ts";
import type { Loaded } from "./load.ts";
import { Dialog, EffectText, Empty, Field, Foot, Note, PageTurns, Problem, Reading } from "./parts.tsx";
import { changes, note, tenant } from "./state.ts";
import { holdsToken } from "./text.ts";
import { type Failure, failureOf, problemOf } from "./wire.ts";

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
              <PageTurns pages={pages} next={next} turn={setPages} />
            </div>
          </div>
        )
      }
    </Reading>
  );
}

/** A dialog that makes one change, leaves a note on the page, and tells why it failed. */
export function Change(props: {
  title: string;
  text?: string;
  verb: string;
  danger?: boolean;
  fields?: readonly (readonly [name: string, label: string, hint: string])[];
  /** The note's key. */
  at: string;
  /** What the note says. */
  done: (values: Readonly<Record<string, string>>) => string;
  run: (values: Readonly<Record<string, string>>) => Promise<Effect | undefined>;
  onClose: () => void;
}) {
  const [values, setValues] = useState<Readonly<Record<string, string>>>({});
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const { title, text, verb, danger, fields = [], at, done, run, onClose } = props;
  const secret = Object.values(values).some(holdsToken);
  const submit = async () => {
    if (busy || secret) return;
    setBusy(true);
    setFailure(undefined);
    try {
      tell(at, await run(values), done(values));
    } catch (error) {
      const failed = failureOf(error);
      if (!pending(at, failed, done(values))) {
        setFailure(failed);
        setBusy(false);
        return;
      }
    }
    changes.value++;
    onClose();
  };
  return (
    <Dialog
      title={title}
      text={text}
      onClose={() => busy || onClose()}
      onSubmit={submit}
      foot={
        <Foot
          busy={busy}
          doing="Working"
          verb={verb}
          danger={danger}
          locked={busy || secret}
          first={fields.length === 0 ? "cancel" : undefined}
          onClose={onClose}
        />
      }
    >
      {fields.map(([name, label, hint], i) => (
        <Field
          key={name}
          label={label}
          hint={hint}
          problem={holdsToken(values[name] ?? "") ? "This looks like a token" : problemOf(failure, name)}
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

/** Leaves the note of a change that is made. */
export function tell(key: string, effect: Effect | undefined, verb: string): void {
  note(
    key,
    <Note kind="ok" live>
      {effect === undefined ? <strong>{verb}.</strong> : <EffectText of={effect} verb={verb} />}
    </Note>,
  );
}

/** True if the change is durable, and only its proof did not come in time. Then a note says until when to wait. */
export function pending(key: string, { reason, effectiveBy }: Failure, verb: string): boolean {
  if (reason !== "EFFECT_PENDING") return false;
  note(
    key,
    <Note kind="warn" live>
      <strong>{verb}.</strong> Durable; in force by {effectiveBy}.
    </Note>,
  );
  return true;
}

export function Mark({ of }: { of: readonly [string, string] | undefined }) {
  return <span class={`state ${of?.[1] ?? "expired"}`}>{of?.[0] ?? "Unknown"}</span>;
}
