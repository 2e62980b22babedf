import { useState } from "preact/hooks";
import { Field, Gate, Note, Problem } from "./parts.tsx";
import { ended, settings, signIn } from "./state.ts";
import { type Failure, failureOf } from "./wire.ts";

export function SignIn() {
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const config = settings.value;
  const submit = async (event: Event) => {
    event.preventDefault();
    const field = (event.currentTarget as HTMLFormElement).elements.namedItem("token") as HTMLInputElement;
    const token = field.value.trim();
    if (token === "" || busy) return field.focus();
    field.value = "";
    setBusy(true);
    setFailure(undefined);
    try {
      await signIn(token);
    } catch (error) {
      setFailure(failureOf(error));
      field.focus();
    } finally {
      setBusy(false);
    }
  };
  return (
    <main class="gate" id="main" tabindex={-1}>
      <div class="card">
        <p class="brand">
          <Gate />
          Sallyport
        </p>
        <h1>Sign in</h1>
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
        ) : config?.tokenSignIn === false ? (
          <Note kind="warn">Sign-in with a token is off on this server.</Note>
        ) : (
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
                  autofocus
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
            <button type="submit" class="primary" aria-disabled={busy}>
              {busy ? "Signing in…" : "Sign in with a token"}
            </button>
          </form>
        )}
        <p class="small muted">
          {location.host} · Sallyport {config?.version}
        </p>
      </div>
    </main>
  );
}
