import { effect, signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Token } from "../gen/sallyport/v1/token_admin_pb.ts";
import { Dialog, Foreign, Icon, Moment, When } from "./parts.tsx";
import { hold, me } from "./state.ts";

/** The strings that nobody stored yet, and nowhere else: in no state of a component, so that forgetting them here is enough. */
const secrets = new Map<Shown, string>();
interface Shown {
  readonly token: Token;
  readonly done: () => void;
  /** Lets a sign-out that was put off happen. */
  readonly release: () => void;
}
/** The first one is on the screen. The others wait: two forms can be under way, if somebody leaves the page of the first. */
const waiting = signal<readonly Shown[]>([]);

/** Takes the string out of a response, and shows it in a dialog of its own, after those that came before it. */
export function reveal(response: { token?: Token; tokenString: string }, done: () => void = () => {}): void {
  const one = { token: response.token!, done, release: hold() };
  secrets.set(one, response.tokenString);
  response.tokenString = "";
  waiting.value = [...waiting.value, one];
}

function forget(one: Shown): void {
  secrets.delete(one);
  one.release();
}
// The next person must not see them.
effect(() => {
  if (me.value !== undefined) return;
  const left = waiting.peek();
  waiting.value = [];
  left.forEach(forget);
});

export function Reveal() {
  const [one, ...others] = waiting.value;
  return one === undefined ? null : <RevealDialog key={one.token.id} one={one} others={others.length} />;
}

function RevealDialog({ one, others }: { one: Shown; others: number }) {
  const { token } = one;
  const secret = () => secrets.get(one) ?? "";
  const place = useRef<HTMLOutputElement>(null);
  const [stored, setStored] = useState(false);
  const [said, say] = useState("");
  useEffect(() => {
    const output = place.current!;
    const hint = document.createElement("b");
    // A string in JWT form does not begin with its hint.
    hint.textContent = secret().startsWith(token.hint) ? token.hint : "";
    output.append(hint, secret().slice(hint.textContent.length));
    return () => output.replaceChildren();
  }, []);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(secret());
      say("Copied");
    } catch {
      getSelection()?.selectAllChildren(place.current!);
      say(document.execCommand("copy") ? "Copied" : "Copy it by hand: it is selected");
      getSelection()?.removeAllRanges();
    }
  };
  const save = () => {
    const url = URL.createObjectURL(new Blob([`${secret()}\n`], { type: "text/plain" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = `${token.hint}.token`;
    link.click();
    URL.revokeObjectURL(url);
    say("Saved");
  };
  const finish = () => {
    if (!stored) return;
    place.current?.replaceChildren();
    waiting.value = waiting.value.filter((shown) => shown !== one);
    one.done();
    forget(one);
  };
  return (
    <Dialog
      title="Copy the token now"
      text={`You will not see it again. Sallyport keeps only a hash.${others === 0 ? "" : ` ${others} more to store after it.`}`}
      onSubmit={finish}
      foot={
        <>
          <label class="check">
            <input type="checkbox" checked={stored} onChange={(event) => setStored(event.currentTarget.checked)} /> I
            have stored it
          </label>
          <button type="submit" class="primary" aria-disabled={!stored} title={stored ? undefined : "Store it first"}>
            Done
          </button>
        </>
      }
    >
      <div class="secret">
        <output ref={place} aria-label="Token" translate={false} />
        <div class="filters">
          <button class="primary" type="button" data-first onClick={copy}>
            <Icon name="copy" />
            Copy
          </button>
          <button type="button" onClick={save}>
            <Icon name="down" />
            Save as file
          </button>
          <span class="small muted" role="status">
            {said}
          </span>
        </div>
      </div>
      <dl class="facts card">
        <div>
          <dt>Hint</dt>
          <dd>
            <code>{token.hint}</code>
            <span class="sub">Lists, logs and the audit log show this part.</span>
          </dd>
        </div>
        <div>
          <dt>Principal</dt>
          <dd>
            <Foreign text={token.principal} /> in {token.tenant}
          </dd>
        </div>
        <div>
          <dt>Expires</dt>
          <dd>
            {token.expireTime === undefined ? (
              "never"
            ) : (
              <>
                <Moment at={token.expireTime} />{" "}
                <span class="muted">
                  <When at={token.expireTime} />
                </span>
              </>
            )}
          </dd>
        </div>
      </dl>
      <details>
        <summary>Try it with curl</summary>
        <pre class="mono small">{`TOKEN="$(cat ${token.hint}.token)"
curl -i -H "authorization: Bearer $TOKEN" http://127.0.0.1:7400/v1/check/envoy/default`}</pre>
      </details>
    </Dialog>
  );
}
