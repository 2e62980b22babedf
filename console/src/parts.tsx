import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { type Effect, EffectMode } from "../gen/sallyport/v1/effect_pb.ts";
import { type Token, TokenState } from "../gen/sallyport/v1/token_admin_pb.ts";
import type { Loaded } from "./load.ts";
import { now } from "./state.ts";
import { DAY, millis, relativeText, timeText, utcText, visible, waitText } from "./text.ts";
import type { Failure } from "./wire.ts";

const PATHS = {
  key: "M7.2 8.8 13.5 2.5M11 5l2 2M9.2 6.8l1.3 1.3M8 11a3 3 0 1 1-6 0 3 3 0 0 1 6 0",
  keys: "M3.5 3h9A1.5 1.5 0 0 1 14 4.5v7a1.5 1.5 0 0 1-1.5 1.5h-9A1.5 1.5 0 0 1 2 11.5v-7A1.5 1.5 0 0 1 3.5 3M2 6.5h12M5 9.5h3",
  people:
    "M8.5 5.5a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0M1.8 13.5c.4-2.6 2-4 4.2-4s3.8 1.4 4.2 4M10.5 3.3a2.4 2.4 0 0 1 0 4.5M12 9.9c1.3.5 2 1.8 2.3 3.6",
  org: "M2.5 13.5v-9l5-2v11M7.5 6.5l6 2v5M1.5 13.5h13M5 6v.01M5 8.5v.01M5 11v.01M10.5 10v.01",
  shield: "M8 1.8 13.5 4v4c0 3-2.2 5.2-5.5 6.4C4.7 13.2 2.5 11 2.5 8V4zM5.5 8l1.8 1.8 3.2-3.4",
  log: "M3 2.5h7l3 3v8H3zM10 2.5v3h3M5.5 8.5h5M5.5 11h5",
  pulse: "M1.5 8.5h3l2-5 3 9 2-4h3",
  find: "M11.5 7a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0m-1 3.5L14 14",
  plus: "M8 3v10M3 8h10",
  close: "m4 4 8 8M12 4l-8 8",
  check: "M14.25 8a6.25 6.25 0 1 1-12.5 0 6.25 6.25 0 0 1 12.5 0m-8.95.2 2 2 3.5-4",
  warn: "M8 2.2 14.5 13.5h-13zM8 6.5v3M8 11.6v.01",
  copy: "M7 5.5h5A1.5 1.5 0 0 1 13.5 7v5a1.5 1.5 0 0 1-1.5 1.5H7A1.5 1.5 0 0 1 5.5 12V7A1.5 1.5 0 0 1 7 5.5m3.5 0v-2a1 1 0 0 0-1-1h-6a1 1 0 0 0-1 1v6a1 1 0 0 0 1 1h2",
  down: "M8 2.5v7.5M4.8 7 8 10.2 11.2 7M2.5 13.5h11",
  menu: "M2 4.5h12M2 8h12M2 11.5h12",
  out: "M6.5 2.5h-4v11h4M6 8h8M11 5l3 3-3 3",
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="i" viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Gate() {
  return (
    <svg viewBox="0 0 24 24" aria-hidden="true">
      <path d="M4 21V10a8 8 0 0 1 16 0v11M2.5 21h19M8 21V8.5M12 21V6M16 21V8.5M5 13h14M5 17h14" />
    </svg>
  );
}

/** A text that somebody else wrote. */
export function Foreign({ text }: { text: string }) {
  return <bdi>{visible(text)}</bdi>;
}

/** A time: how far it is; UTC on hover and for readers. The date stands beside it where it is far. */
export function When({ at, empty = "never" }: { at: { seconds: bigint; nanos: number } | undefined; empty?: string }) {
  if (at === undefined) return <>{empty}</>;
  const ms = millis(at);
  return (
    <time dateTime={utcText(ms)} title={`${timeText(ms)}, ${utcText(ms)}`}>
      {relativeText(ms, now())}
    </time>
  );
}

export function Moment({ at }: { at: { seconds: bigint; nanos: number } | undefined }) {
  if (at === undefined) return null;
  const ms = millis(at);
  return (
    <time dateTime={utcText(ms)} title={utcText(ms)}>
      {timeText(ms)}
    </time>
  );
}

const STATES: Readonly<Record<number, readonly [name: string, mark: string]>> = {
  [TokenState.ACTIVE]: ["Active", "active"],
  [TokenState.NOT_YET_VALID]: ["Not yet valid", "disabled"],
  [TokenState.EXPIRED]: ["Expired", "expired"],
  [TokenState.DISABLED]: ["Disabled", "disabled"],
  [TokenState.REVOKED]: ["Revoked", "revoked"],
};

export function State({ of }: { of: Token }) {
  const soon = of.state === TokenState.ACTIVE && of.expireTime !== undefined && millis(of.expireTime) - now() < 7 * DAY;
  const [name, mark] = soon ? ["Expiring", "soon"] : (STATES[of.state] ?? ["Unknown", "expired"]);
  return <span class={`state ${mark}`}>{name}</span>;
}

export const nameOf = (token: Token) => visible(token.displayName || token.hint);

export function Scopes({ of, most = 2 }: { of: readonly string[]; most?: number }) {
  return (
    <>
      {of.slice(0, most).map((scope) => (
        <>
          <span class="scope">{visible(scope)}</span>{" "}
        </>
      ))}
      {of.length > most && (
        <span class="small muted" title={of.slice(most).join(" ")}>
          +{of.length - most}
        </span>
      )}
    </>
  );
}

/** A modal dialog. Focus goes back to what opened it. `onClose` undefined: only the program closes it. */
export function Dialog(props: {
  title: ComponentChildren;
  text?: ComponentChildren;
  onClose?: (() => void) | undefined;
  onSubmit?: (() => void) | undefined;
  foot: ComponentChildren;
  children: ComponentChildren;
}) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  const { onClose, onSubmit } = props;
  const closer = useRef(onClose);
  closer.current = onClose;
  useLayoutEffect(() => {
    const dialog = ref.current!;
    const opener = document.activeElement;
    dialog.showModal();
    // The first field that asks for it, because `autofocus` counts only for parsed pages.
    dialog.querySelector<HTMLElement>("[data-first]")?.focus();
    // Escape asks. The dialog closes when it goes, so its state and the page never differ.
    const ask = (event: Event) => {
      if (closer.current === undefined) return;
      event.preventDefault();
      closer.current();
    };
    // A browser may close it all the same. A dialog that stays, such as one that waits for an answer, is shown again.
    const reopen = () => {
      closer.current?.();
      queueMicrotask(() => {
        if (dialog.isConnected && !dialog.open) dialog.showModal();
      });
    };
    dialog.addEventListener("cancel", ask);
    dialog.addEventListener("close", reopen);
    return () => {
      dialog.removeEventListener("cancel", ask);
      dialog.removeEventListener("close", reopen);
      dialog.close();
      if (opener instanceof HTMLElement && opener.isConnected) opener.focus();
      else document.getElementById("main")?.focus();
    };
  }, []);
  return (
    <dialog ref={ref} aria-labelledby={id} {...(onClose === undefined && { closedby: "none" })}>
      <form
        novalidate
        onSubmit={(event) => {
          event.preventDefault();
          onSubmit?.();
        }}
      >
        <div class="dialog-head">
          <div>
            <h2 id={id}>{props.title}</h2>
            {props.text !== undefined && <p class="muted">{props.text}</p>}
          </div>
          {onClose !== undefined && (
            <button class="plain" type="button" aria-label="Close" onClick={onClose}>
              <Icon name="close" />
            </button>
          )}
        </div>
        <div class="dialog-body">{props.children}</div>
        <div class="dialog-foot">{props.foot}</div>
      </form>
    </dialog>
  );
}

/** The foot of a dialog that makes a change: how long it takes so far, Cancel, and the button that makes it. */
export function Foot(props: {
  busy: boolean;
  /** Stands before the time. */
  doing?: string;
  /** Stands there while nothing goes on. */
  idle?: string;
  verb: string;
  danger?: boolean | undefined;
  locked?: boolean;
  /** The button that has the focus at first. */
  first?: "cancel" | "verb" | undefined;
  onClose: () => void;
}) {
  const { busy, doing = "Waiting until it is in force everywhere", idle, verb, danger, locked = busy, first } = props;
  return (
    <>
      <span class="small muted" role="status">
        {busy ? (
          <>
            {doing}: <Elapsed />
          </>
        ) : (
          idle
        )}
      </span>
      <button type="button" {...(first === "cancel" && { "data-first": true })} onClick={() => busy || props.onClose()}>
        Cancel
      </button>
      <button
        type="submit"
        class={danger ? "primary danger" : "primary"}
        {...(first === "verb" && { "data-first": true })}
        aria-disabled={locked}
      >
        {verb}
      </button>
    </>
  );
}

/** A label, an input, its hint and its problem, tied together for readers. */
export function Field(props: {
  label: ComponentChildren;
  hint?: ComponentChildren;
  problem?: string | undefined;
  children: (attributes: {
    id: string;
    "aria-describedby": string | undefined;
    "aria-invalid": "true" | undefined;
  }) => JSX.Element;
}) {
  const id = useId();
  const { label, hint, problem, children } = props;
  const described = [problem && `${id}p`, hint && `${id}h`].filter(Boolean).join(" ") || undefined;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({ id, "aria-describedby": described, "aria-invalid": problem ? "true" : undefined })}
      {problem && (
        <p class="problem" id={`${id}p`}>
          {problem}
        </p>
      )}
      {hint && (
        <p class="hint" id={`${id}h`}>
          {hint}
        </p>
      )}
    </div>
  );
}

export function Segments<T extends string>(props: {
  legend: string;
  value: T;
  options: readonly (readonly [value: T, text: string])[];
  onChange: (value: T) => void;
  hint?: ComponentChildren;
}) {
  const name = useId();
  return (
    <fieldset class="field">
      <legend>{props.legend}</legend>
      <div class="segments">
        {props.options.map(([value, text]) => (
          <label key={value}>
            <input
              type="radio"
              name={name}
              value={value}
              checked={value === props.value}
              onChange={() => props.onChange(value)}
            />
            {text}
          </label>
        ))}
      </div>
      {props.hint && <p class="hint">{props.hint}</p>}
    </fieldset>
  );
}

/** To the page before or after, in a list whose pages are known by their tokens. `next`: empty on the last page. */
export function PageTurns(of: { pages: readonly string[]; next: string; turn: (pages: readonly string[]) => void }) {
  const { pages, next, turn } = of;
  return (
    <span class="actions">
      <button
        type="button"
        aria-disabled={pages.length === 1}
        onClick={() => pages.length > 1 && turn(pages.slice(0, -1))}
      >
        Previous
      </button>
      <button type="button" aria-disabled={next === ""} onClick={() => next !== "" && turn([...pages, next])}>
        Next
      </button>
    </span>
  );
}

export function Note({
  kind,
  children,
  live,
}: {
  kind: "ok" | "warn" | "bad";
  children: ComponentChildren;
  live?: boolean;
}) {
  return (
    <div class={`note ${kind}`} role={live ? "status" : undefined}>
      <Icon name={kind === "ok" ? "check" : "warn"} />
      <div>{children}</div>
    </div>
  );
}

/** What somebody else saved meanwhile, beside what the form holds. */
export function Conflict<N extends string>(props: {
  fields: readonly (readonly [name: N, label: string, ...unknown[]])[];
  theirs: Readonly<Record<N, string>>;
  mine: Readonly<Record<N, string>>;
  onTake: () => void;
  onKeep: () => void;
}) {
  const { fields, theirs, mine } = props;
  return (
    <Note kind="warn" live>
      <strong>Somebody changed it meanwhile.</strong>
      <ul>
        {fields
          .filter(([name]) => theirs[name] !== mine[name])
          .map(([name, label]) => (
            <li key={name}>
              {label}: theirs “{visible(theirs[name])}”, yours “{visible(mine[name])}”
            </li>
          ))}
      </ul>
      <div class="filters">
        <button type="button" onClick={props.onTake}>
          Take theirs
        </button>
        <button type="button" onClick={props.onKeep}>
          Keep mine
        </button>
      </div>
    </Note>
  );
}

export function Problem({ failure, again }: { failure: Failure; again?: (() => void) | undefined }) {
  return (
    <div class="note bad" role="alert">
      <Icon name="warn" />
      <div>
        <strong>{failure.title}.</strong> {visible(failure.text)}
        <span class="sub">
          {failure.reason && <code>{failure.reason}</code>} {failure.requestId && <>request {failure.requestId}</>}
        </span>
        {again !== undefined && (
          <p>
            <button type="button" onClick={again}>
              Try again
            </button>
          </p>
        )}
      </div>
    </div>
  );
}

/** The states of something that is read: a skeleton, a failure beside the old data, or the data. */
export function Reading<T>({ of, children }: { of: Loaded<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      {of.failure !== undefined && (
        <>
          <Problem failure={of.failure} again={of.again} />
          {of.data !== undefined && <p class="muted small">As of {timeText(of.at)}.</p>}
        </>
      )}
      {of.data !== undefined
        ? children(of.data)
        : of.failure === undefined && (
            <div class="skeleton card" role="status">
              <span class="hidden">Loading</span>
              <i />
              <i />
              <i />
            </div>
          )}
    </>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <div class="empty">{children}</div>;
}

/** The sentence that an effect proves. */
export function EffectText({ of, verb }: { of: Effect; verb: string }) {
  const waited = of.waited === undefined ? 0 : millis(of.waited);
  const { acknowledged, validators, mode, position } = of;
  const rest = validators - acknowledged;
  if (mode === EffectMode.ACCEPTED)
    return (
      <>
        <strong>{verb}.</strong> Durable; in force by <Moment at={of.effectiveBy} />.
      </>
    );
  return (
    <>
      <strong>
        {verb}. In force everywhere after {waitText(waited)}.
      </strong>
      <br />
      <span class="muted">
        {mode === EffectMode.ACKED || validators === 0
          ? validators > 0 && `Acknowledged by ${acknowledged} of ${validators} instance${validators === 1 ? "" : "s"}`
          : `${acknowledged} of ${validators} acknowledged; ${rest === 1 ? "the other can" : "the others can"} no longer use ${rest === 1 ? "its" : "their"} cache`}
        {validators > 0 && validators <= 20 && (
          <span class="acks" aria-hidden="true">
            {Array.from({ length: validators }, (_, i) => (
              <i class={i < acknowledged ? "" : "late"} />
            ))}
          </span>
        )}
        {position > 0n && <> · log position {position.toLocaleString("en")}</>}
      </span>
    </>
  );
}

/** The time since something began, in tenths of a second, while it lasts. */
export function Elapsed() {
  const [began] = useState(() => Date.now());
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 100);
    return () => clearInterval(timer);
  }, []);
  return <>{((Date.now() - began) / 1000).toFixed(1)} s</>;
}
