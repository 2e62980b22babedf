import { useRef, useState } from "preact/hooks";
import type { Token } from "../gen/sallyport/v1/token_admin_pb.ts";
import { Dialog, EffectText, Foot, Note, nameOf, Problem, Segments } from "./parts.tsx";
import { reveal } from "./reveal.tsx";
import { changes, go, making, me, note, now, succeed } from "./state.ts";
import { DAY, spanText, stampOf, timeText } from "./text.ts";
import { type Failure, failureOf, tokens } from "./wire.ts";

const OVERLAPS = [
  ["0", "None"],
  [String(DAY / 24), "1 hour"],
  [String(DAY), "1 day"],
  [String(7 * DAY), "7 days"],
] as const;

export function Rotate({ token, onClose }: { token: Token; onClose: () => void }) {
  const [overlap, setOverlap] = useState<string>(String(DAY));
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const asked = useRef<{ id: string; overlap: string } | undefined>(undefined);
  const ms = Number(overlap);
  const submit = async () => {
    if (busy) return;
    setBusy(true);
    setFailure(undefined);
    if (asked.current?.overlap !== overlap) asked.current = { id: crypto.randomUUID(), overlap };
    const requestId = asked.current.id;
    try {
      const call = () => tokens.rotateToken({ id: token.id, overlap: stampOf(ms), requestId });
      await making(requestId, call, (response) => {
        const { id } = response.token!;
        if (token.id === me.value?.caller?.tokenId) succeed(id, response.tokenString);
        note(
          id,
          <Note kind="ok" live>
            {response.effect && <EffectText of={response.effect} verb="Rotated" />}
          </Note>,
        );
        onClose();
        reveal(response, () => go(`/tokens/${id}`));
        changes.value++;
      });
    } catch (error) {
      setFailure(failureOf(error));
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={`Rotate ${nameOf(token)}`}
      text="A new string with the same rights. The old string works on for the overlap, then never again."
      onClose={() => busy || onClose()}
      onSubmit={submit}
      foot={<Foot busy={busy} doing="Rotating" verb="Rotate" first="verb" onClose={onClose} />}
    >
      <Segments
        legend="Overlap"
        value={overlap}
        options={OVERLAPS}
        onChange={setOverlap}
        hint={ms === 0 ? "The old string ends at once." : `The old string works until ${timeText(now() + ms)}.`}
      />
      <figure>
        <Overlap part={[0, 0.06, 0.22, 0.5][OVERLAPS.findIndex(([value]) => value === overlap)]!} />
        <figcaption class="small muted">
          {ms === 0 ? "The new token takes over at once." : `For ${spanText(ms)} both strings work.`}
        </figcaption>
      </figure>
      {failure !== undefined && <Problem failure={failure} />}
    </Dialog>
  );
}

/** Two bars, with the time that they share. */
function Overlap({ part }: { part: number }) {
  const shared = 200 * part;
  return (
    <svg class="bars" viewBox="0 0 460 74" aria-hidden="true">
      <text x="4" y="12">
        old string
      </text>
      <rect class="old" x="4" y="18" width={216 + shared} height="16" rx="4" />
      {shared > 0 && <rect class="both" x="220" y="18" width={shared} height="16" />}
      <rect class="new" x="220" y="46" width="236" height="16" rx="4" />
      {shared > 0 && <rect class="both" x="220" y="46" width={shared} height="16" />}
      <path class="now" d="M220 6v64" stroke-dasharray="3 3" />
      <text x="226" y="12">
        now
      </text>
    </svg>
  );
}
