import type { AuditActor } from "../domain/audit-event.ts";
import { AppError } from "../domain/errors.ts";
import type { AuthorityStore } from "../revocation/authority-store.ts";
import type { Committed } from "../revocation/ports.ts";
import type { RevokeSelection, TokenStore } from "./ports.ts";
import { rerun } from "./rerun.ts";

const PAGE = 20_000;
const CHUNK = 500;
/** The most passes over descendants, while other calls go on minting tokens. */
const DESCENTS = 10;

/** One run over the selected rows, in transactions of one epoch. */
export class Chunks {
  readonly #store: AuthorityStore;
  readonly #tenant: string;
  readonly #reason: string;
  readonly #actor: AuditActor;
  readonly #count: (more: number) => void;
  #revoked = 0;
  #last: Committed<unknown> | undefined;
  #epoch: string | undefined;

  constructor(store: AuthorityStore, tenant: string, reason: string, actor: AuditActor, count: (more: number) => void) {
    this.#store = store;
    this.#tenant = tenant;
    this.#reason = reason;
    this.#actor = actor;
    this.#count = (more) => {
      this.#revoked += more;
      count(more);
    };
  }

  /** Revokes what is selected. `seen` gets the ids of each page. */
  async revokeSelected(
    reads: Pick<TokenStore, "select">,
    selection: RevokeSelection,
    seen: (ids: readonly string[]) => void = () => {},
  ): Promise<void> {
    // A revoked token mints nothing more. Another pass finds the tokens that it minted before.
    for (let passes = selection.descendants === true ? DESCENTS : 1; ; passes--) {
      const before = this.#revoked;
      for (let afterId = "", last = false; !last; ) {
        const { ids, epoch } = await this.#afterFirst(() => reads.select(selection, PAGE, afterId));
        this.#selectedIn(epoch);
        seen(ids);
        await this.#revoke(ids);
        last = ids.length < PAGE;
        afterId = ids.at(-1) ?? afterId;
      }
      if (passes <= 1 || this.#revoked === before) return;
    }
  }

  /** Tokens are revoked in the epoch in which they were selected: another epoch may have other tokens. */
  #selectedIn(epoch: string): void {
    this.#epoch ??= epoch;
    if (epoch !== this.#epoch) throw unsure();
  }

  /** Rows that another transaction holds do not delay a chunk. They are revoked one by one after it. */
  async #revoke(ids: readonly string[]): Promise<void> {
    for (let at = 0; at < ids.length; at += CHUNK) {
      const { revoked, busy } = await this.commit(() => this.#chunk(ids.slice(at, at + CHUNK)));
      this.#count(revoked.length);
      const single = await Promise.allSettled(
        busy.map(async (id) => {
          await this.commit(() => this.#store.revokeToken(id, false, this.#reason, rerun(this.#actor)));
          this.#count(1);
        }),
      );
      for (const outcome of single) if (outcome.status === "rejected") throw outcome.reason;
    }
  }

  /** An empty chunk also commits, so that the call waits for earlier revocations by others. */
  async end(): Promise<Committed<void>> {
    if (this.#last === undefined) await this.commit(() => this.#chunk([]));
    return { ...this.#last!, value: undefined };
  }

  /** A failure after an acknowledged chunk leaves a part of the work done. */
  async #afterFirst<T>(step: () => Promise<T>): Promise<T> {
    try {
      return await step();
    } catch (error) {
      throw this.#last === undefined ? error : unsure(error);
    }
  }

  #chunk(ids: readonly string[]) {
    // After the first commit an empty chunk is no repeat.
    const actor = this.#last === undefined ? this.#actor : rerun(this.#actor);
    return this.#store.revokeChunk(this.#tenant, ids, this.#reason, actor);
  }

  /** Runs one transaction. */
  async commit<T>(step: () => Promise<Committed<T>>): Promise<T> {
    const done = await this.#afterFirst(step);
    this.#epoch ??= done.epoch;
    if (done.epoch !== this.#epoch) throw unsure();
    this.#last = done;
    return done.value;
  }
}

/** The error after a first chunk: that chunk is durable, so the outcome is never "nothing was done". */
function unsure(cause?: unknown): AppError {
  return new AppError(
    "OUTCOME_UNKNOWN",
    "some tokens were revoked, others perhaps not; it is safe to repeat the call",
    {
      retryAfterMs: 1000,
      cause,
    },
  );
}
