import { useState } from "preact/hooks";
import { type Token, TokenState } from "../gen/sallyport/v1/token_admin_pb.ts";
import { useLoad } from "./load.ts";
import { Dialog, Field, Foot, Foreign, nameOf, Problem, When } from "./parts.tsx";
import { pending, tell } from "./rows.tsx";
import { changes, go, route } from "./state.ts";
import { holdsToken } from "./text.ts";
import { type Failure, failureOf, problemOf, surely, tokens } from "./wire.ts";

/** Asks, revokes, and leaves the effect as a note on the token's page. */
export function Revoke({ token, family = false, onClose }: { token: Token; family?: boolean; onClose: () => void }) {
  const [reason, setReason] = useState("");
  const [whole, setWhole] = useState(family);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const children = useLoad(`children|${token.id}`, async (signal) => {
    const states = [TokenState.ACTIVE, TokenState.NOT_YET_VALID, TokenState.DISABLED];
    const { tokens: rows, nextPageToken } = await tokens.listTokens(
      { tenant: token.tenant, parent: token.id, states },
      { signal },
    );
    return `${rows.length}${nextPageToken === "" ? "" : "+"}`;
  });
  const rotated = token.rotatedFrom !== "" || token.rotatedTo !== "";
  const submit = async () => {
    if (busy || holdsToken(reason)) return;
    setBusy(true);
    setFailure(undefined);
    const verb = whole ? "Revoked, with all its rotations" : "Revoked";
    try {
      const target = { case: "id" as const, value: token.id };
      const { effect } = await surely(() => tokens.revokeToken({ target, family: whole, reason }));
      tell(token.id, effect, verb);
      leave();
    } catch (error) {
      const failed = failureOf(error);
      if (pending(token.id, failed, verb)) return leave();
      setFailure(failed);
      setBusy(false);
    }
  };
  const leave = () => {
    changes.value++;
    onClose();
    if (route.value.path !== `/tokens/${token.id}` || route.value.query.size > 0) go(`/tokens/${token.id}`);
  };
  return (
    <Dialog
      title={`Revoke ${nameOf(token)}?`}
      text="It is refused everywhere, at once and for good."
      onClose={() => busy || onClose()}
      onSubmit={submit}
      foot={<Foot busy={busy} verb="Revoke" danger first="cancel" onClose={onClose} />}
    >
      <dl class="facts card">
        <div>
          <dt>Token</dt>
          <dd>
            <code>{token.hint}</code>
          </dd>
        </div>
        <div>
          <dt>Principal</dt>
          <dd>
            <Foreign text={token.principal} /> in {token.tenant}
          </dd>
        </div>
        <div>
          <dt>Last used</dt>
          <dd>
            <When at={token.lastUseTime} />{" "}
            {token.lastUseAddress && <span class="muted">from {token.lastUseAddress}</span>}
          </dd>
        </div>
        <div>
          <dt>Children</dt>
          <dd>
            {children.data === undefined
              ? "…"
              : children.data === "0"
                ? "none"
                : `${children.data} live tokens die with it`}
          </dd>
        </div>
      </dl>
      {rotated && (
        <label class="check">
          <input type="checkbox" checked={whole} onChange={(event) => setWhole(event.currentTarget.checked)} /> Also
          revoke every token that it came from or went to by rotation
        </label>
      )}
      <Field
        label="Reason (optional)"
        hint="The audit log keeps it."
        problem={holdsToken(reason) ? "This looks like a token" : problemOf(failure, "reason")}
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
      {failure !== undefined && <Problem failure={failure} />}
    </Dialog>
  );
}
