import type { Clock, Timers } from "../domain/clock.ts";
import type { SigningKey } from "../domain/signing-keys.ts";
import { isOurs, type ParsedTokenString } from "../domain/token-string.ts";
import { withDeadline } from "../domain/with-deadline.ts";

/** A check takes 0.1 to 0.3 ms of the one thread. So few are made at once, and others get their turn in between. */
const SLOT_MS = 10;
const MOST_IN_SLOT = 20;
/** Of those, the ones of the admin listener's callers: their strings must not use up the turns of the services. */
const OF_CALLERS = 4;
/** The strings that wait for a later slot, at most about 0.1 s. */
const MOST_WAITING = 200;
/** The strings whose signature was found right. About 100 bytes each. */
const MOST_RIGHT = 10_000;

interface Waiting {
  readonly answer: Promise<boolean>;
  readonly check: () => void;
}

/**
 * Checks that a string was made with our keys. It bounds the checks of signatures, and remembers the right ones by
 * digest, which covers the whole string: so a good token is checked once. The look-up alone knows if it is live.
 */
export class Signatures {
  readonly #deps: { readonly clock: Clock; readonly timers: Timers };
  /** The public key by digest, the least recently used first. */
  readonly #right = new Map<string, SigningKey["public"]>();
  readonly #waiting = new Map<string, Waiting>();
  readonly #mostInSlot: number;
  #slot = Number.NEGATIVE_INFINITY;
  #left = 0;

  /** Together they make MOST_IN_SLOT checks in a slot. `callers`: for those who call Sallyport itself. */
  constructor(deps: { readonly clock: Clock; readonly timers: Timers }, of: "services" | "callers" = "services") {
    this.#deps = deps;
    this.#mostInSlot = of === "callers" ? OF_CALLERS : MOST_IN_SLOT - OF_CALLERS;
  }

  /**
   * For a string that `hasShape` accepted. No I/O. A promise if the check must wait; undefined if too many wait, or if
   * `deadline`, a monotonic time, comes first.
   */
  ours(text: string, parsed: ParsedTokenString, deadline: number): boolean | undefined | Promise<boolean | undefined> {
    const { digest, signedBy } = parsed;
    if (signedBy === undefined) return isOurs(text, parsed);
    // An id can come back with another key, if its key was removed before.
    if (this.#right.get(digest)?.equals(signedBy.public)) {
      this.#keep(digest, signedBy.public);
      return true;
    }
    const answer = this.#waiting.get(digest)?.answer;
    if (answer !== undefined) return withDeadline(this.#deps, answer, deadline);
    if (this.#waiting.size === 0 && this.#take()) return this.#check(text, parsed, signedBy.public);
    if (this.#waiting.size >= MOST_WAITING) return undefined;
    return withDeadline(
      this.#deps,
      this.#later(digest, () => this.#check(text, parsed, signedBy.public)),
      deadline,
    );
  }

  /** Calls for the same string share one check. */
  #later(digest: string, check: () => boolean): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    if (this.#waiting.size === 0) this.#deps.timers.after(SLOT_MS, () => this.#next());
    this.#waiting.set(digest, { answer: promise, check: () => resolve(check()) });
    return promise;
  }

  #next(): void {
    for (const [digest, { check }] of this.#waiting) {
      if (!this.#take()) break;
      this.#waiting.delete(digest);
      check();
    }
    if (this.#waiting.size > 0) this.#deps.timers.after(SLOT_MS, () => this.#next());
  }

  #take(): boolean {
    const now = this.#deps.clock.mono();
    if (now - this.#slot >= SLOT_MS) {
      this.#slot = now;
      this.#left = this.#mostInSlot;
    }
    if (this.#left === 0) return false;
    this.#left--;
    return true;
  }

  #check(text: string, parsed: ParsedTokenString, key: SigningKey["public"]): boolean {
    const right = isOurs(text, parsed);
    if (right) this.#keep(parsed.digest, key);
    return right;
  }

  #keep(digest: string, key: SigningKey["public"]): void {
    this.#right.delete(digest);
    this.#right.set(digest, key);
    if (this.#right.size > MOST_RIGHT) this.#right.delete(this.#right.keys().next().value!);
  }
}
