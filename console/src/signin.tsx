import { useEffect, useState } from "preact/hooks";
import { Dialog, Field, Gate, Note, Problem } from "./parts.tsx";
import { choices, ended, me, resume, settings, signIn, signOut } from "./state.ts";
import { type Failure, failureOf } from "./wire.ts";

/** What the page says of a sign-in that was not finished, by the word in its address. */
export const PROBLEMS: Readonly<Record<string, string>> = {
  expired: "This sign-in is too old, or began in another browser or at another address. Begin again here.",
  refused: "The sign-in was refused. Begin again; if it is refused again, ask who runs this server.",
  forbidden: "You are signed in there, but your groups give you no rights here. Ask who runs this server.",
  unavailable: "The sign-in cannot be finished now. Try again in a moment.",
};

/** Says to the page whose form waits that somebody has signed in, in a tab beside it. */
const CHANNEL = "sallyport.signed-in";

export function SignIn() {
  const config = settings.value;
  return (
    <main class="gate" id="main" tabindex={-1}>
      <div class="card">
        <p class="brand">
          <Gate />
          Sallyport
        </p>
        <h1>{choices.value.length > 0 ? "Choose a tenant" : "Sign in"}</h1>
        {ended.value !== "" && (
          <Note kind="warn" live>
            {ended.value}
          </Note>
        )}
        {!isSecureContext ? (
          <Note kind="warn">
            <strong>This address is not secure.</strong> A token would cross the network in the clear. Open the console
            over https://, or on the machine itself.
          </Note>
        ) : choices.value.length > 0 ? (
          <Tenants />
        ) : (
          <Ways />
        )}
        <p class="small muted">
          {location.host} · Sallyport {config?.version}
        </p>
      </div>
    </main>
  );
}

/** The tenants of a session that has several. */
function Tenants() {
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  return (
    <div class="stack">
      <p>You have rights in several tenants. You can change to another one later.</p>
      {[...choices.value].sort().map((tenant) => (
        <button
          type="button"
          key={tenant}
          onClick={() => void signIn({ tenant }).catch((error) => setFailure(failureOf(error)))}
        >
          {tenant}
        </button>
      ))}
      {failure !== undefined && <Problem failure={failure} />}
    </div>
  );
}

/** Single sign-on, where issuers are configured, and a token. `tab`: in a tab beside this page. */
function Ways({ tab = false }: { tab?: boolean }) {
  const config = settings.value;
  const issuers = config?.issuers ?? [];
  return (
    <>
      {issuers.length > 0 && (
        <div class="stack">
          {issuers.map(({ name, label }) => (
            <a
              class="button primary"
              key={name}
              href={`auth/login?issuer=${encodeURIComponent(name)}${tab ? "&tab=1" : ""}`}
              {...(tab && { target: "_blank", rel: "noopener" })}
            >
              Sign in with {label}
            </a>
          ))}
        </div>
      )}
      {issuers.length > 0 && config?.tokenSignIn !== false && <p class="or">or</p>}
      {config?.tokenSignIn !== false ? (
        <ByToken first={issuers.length === 0} />
      ) : (
        issuers.length === 0 && <Note kind="warn">Sign-in with a token is off on this server.</Note>
      )}
    </>
  );
}

function ByToken({ first }: { first: boolean }) {
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    const field = (event.currentTarget as HTMLFormElement).elements.namedItem("token") as HTMLInputElement;
    const token = field.value.trim();
    if (token === "" || busy) return field.focus();
    field.value = "";
    setBusy(true);
    setFailure(undefined);
    try {
      await signIn({ token });
    } catch (error) {
      setFailure(failureOf(error));
      field.focus();
    } finally {
      setBusy(false);
    }
  };
  return (
    <form class="stack" onSubmit={submit}>
      <Field
        label="Token"
        hint="A personal or administrator token. It stays in this tab’s memory and is gone when you reload or close it."
      >
        {(attributes) => (
          <input
            {...attributes}
            name="token"
            class="concealed"
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            autofocus={first}
          />
        )}
      </Field>
      {failure !== undefined &&
        (failure.reason === "CALLER_UNAUTHENTICATED" ? (
          <Note kind="bad" live>
            <strong>This token does not work here.</strong> It may be mistyped, expired, or revoked.
          </Note>
        ) : (
          <Problem failure={failure} />
        ))}
      <button type="submit" class={first ? "primary" : ""} aria-disabled={busy}>
        {busy ? "Signing in…" : "Sign in with a token"}
      </button>
    </form>
  );
}

/** The credential has ended while a form is open. The form stays if the same person returns. */
export function Lapsed() {
  useEffect(() => {
    const channel = new BroadcastChannel(CHANNEL);
    channel.onmessage = () => void resume();
    return () => channel.close();
  }, []);
  return (
    <Dialog
      title="Sign in again"
      text={
        <>
          Your session has ended. What you typed stays if you sign in as the same person
          {me.value?.caller?.principal ? ` (${me.value.caller.principal})` : ""}.
        </>
      }
      foot={
        <button type="button" onClick={() => signOut("You are signed out.")}>
          Drop it and sign out
        </button>
      }
    >
      <Ways tab />
    </Dialog>
  );
}

/** What the tab beside a waiting form shows. */
export function SignedIn() {
  useEffect(() => {
    const channel = new BroadcastChannel(CHANNEL);
    channel.postMessage("");
    channel.close();
    window.close();
  }, []);
  return (
    <main class="gate" id="main" tabindex={-1}>
      <div class="card">
        <h1>You are signed in</h1>
        <p>Close this tab, and go on in the other one.</p>
        <p>
          <a href="./">Or open the console here</a>
        </p>
      </div>
    </main>
  );
}
