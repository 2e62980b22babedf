import { randomBytes } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { decodeJwt } from "jose";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import type { Keyring, Keys } from "../domain/keyring.ts";
import { sameSecret } from "../domain/mac.ts";
import { openText, sealText } from "../domain/sealed-text.ts";
import type { ConsoleSessionStore } from "../management/ports.ts";
import type { Events } from "../telemetry/events.ts";
import type { Sessions } from "./sessions.ts";
import type { Attempt, IssuedTokens, SignIn } from "./sign-in.ts";

/** A person has this long at the issuer. */
const ATTEMPT_MS = 10 * 60_000;
/** Tokens are renewed when less than this is left of them. */
const RENEW_MS = 60_000;
/** The longest renewal; then another instance may try. */
const RENEWAL_MS = 10_000;
/** Those who wait for the renewal of somebody else look this often. */
const LOOK_MS = 250;
/** At most so many calls wait for their session, and so many strangers for an issuer. */
const MOST = { calls: 64, strangers: 16 };
/** 256 random bits, and a MAC of 128. */
const COOKIE = /^([0-9A-Za-z])([\w-]{43})([\w-]{22})$/;

/** Why a sign-in was not finished, as the page reads it in its address. */
export type SignInProblem = "expired" | "refused" | "forbidden" | "unavailable";

export interface ConsoleSessionsDeps {
  readonly signIns: readonly SignIn[];
  readonly store: ConsoleSessionStore;
  readonly sessions: Sessions;
  readonly keyring: Keyring;
  readonly clock: Clock;
  readonly events: Pick<Events, "trouble">;
  readonly maxAgeMs: number;
  readonly idleMs: number;
}

interface Kept extends IssuedTokens {
  /** When the access token ends, in milliseconds since 1970. */
  readonly expires: number;
}

type Found = NonNullable<Awaited<ReturnType<ConsoleSessionStore["use"]>>>;

/** Single sign-on of the console: it turns a browser's cookie into the session JWT that the issuer gave for it. */
export class ConsoleSessions {
  readonly #deps: ConsoleSessionsDeps;
  readonly #renewals = new Map<string, Promise<string | undefined>>();
  readonly #waiting = { calls: 0, strangers: 0 };

  constructor(deps: ConsoleSessionsDeps) {
    this.#deps = deps;
  }

  get issuers(): readonly { readonly name: string; readonly label: string }[] {
    return this.#deps.signIns.map(({ about: { name, label } }) => ({ name, label }));
  }

  get attemptMs(): number {
    return ATTEMPT_MS;
  }

  get maxAgeMs(): number {
    return this.#deps.maxAgeMs;
  }

  /** The way to an issuer, and the cookie of the attempt; a problem if there is no such issuer, or it does not answer. */
  async begin(
    issuer: string,
    tab: boolean,
  ): Promise<{ location: string; cookie: string } | { problem: SignInProblem }> {
    const signIn = this.#signIn(issuer);
    if (signIn === undefined) return { problem: "refused" };
    try {
      const { url, attempt } = await this.#bounded("strangers", () => signIn.begin());
      const { current } = this.#deps.keyring;
      const text = JSON.stringify({ ...attempt, tab, until: this.#deps.clock.wall() + ATTEMPT_MS });
      const sealed = sealText(current.consoleSeal, "attempt", text).toString("base64url");
      return { location: url.href, cookie: `${current.kid}${sealed}` };
    } catch (error) {
      this.#deps.events.trouble("sign_in_failed", error, { issuer });
      return { problem: "unavailable" };
    }
  }

  /** Ends an attempt: the cookie of a new session, or the problem. */
  async finish(
    cookie: string | undefined,
    query: string,
  ): Promise<{ tab: boolean } & ({ cookie: string } | { problem: SignInProblem })> {
    const attempt = this.#attempt(cookie);
    if (attempt === undefined) return { tab: false, problem: "expired" };
    const { tab } = attempt;
    const signIn = this.#signIn(attempt.issuer);
    if (signIn === undefined) return { tab, problem: "refused" };
    try {
      const tokens = await this.#bounded("strangers", () => signIn.finish(attempt, query));
      // A JWT that every call would refuse makes no session.
      await this.#deps.sessions.authenticate(tokens.accessToken, null).catch((error) => {
        if (!(error instanceof AppError && error.reason === "INVALID_FIELD")) throw error;
      });
      return { tab, cookie: await this.#add(signIn.about.name, kept(tokens)) };
    } catch (error) {
      this.#deps.events.trouble("sign_in_failed", error, { issuer: signIn.about.name });
      return { tab, problem: problemOf(error) };
    }
  }

  /**
   * The session JWT behind a cookie, renewed if it is about to end; undefined if the session has ended. Costs nothing for
   * a cookie that this program did not make.
   */
  async bearer(cookie: string): Promise<string | undefined> {
    const named = this.#named(cookie);
    if (named === undefined) return undefined;
    const { keys, id } = named;
    return this.#bounded("calls", async () => {
      const found = await this.#deps.store.use(id, this.#deps.idleMs);
      const tokens = found && this.#opened(keys, id, found);
      if (found === undefined || tokens === undefined) return undefined;
      if (tokens.refreshToken === undefined || tokens.expires - this.#deps.clock.wall() > RENEW_MS)
        return tokens.accessToken;
      const name = id.toString("base64url");
      let renewal = this.#renewals.get(name);
      if (renewal === undefined) {
        renewal = this.#renew(keys, id, found, tokens).finally(() => this.#renewals.delete(name));
        this.#renewals.set(name, renewal);
      }
      return renewal;
    });
  }

  /** Ends the session on every instance. */
  async end(cookie: string): Promise<void> {
    const named = this.#named(cookie);
    if (named !== undefined) await this.#bounded("calls", () => this.#deps.store.remove(named.id));
  }

  async #renew(keys: Keys, id: Buffer, found: Found, old: Kept): Promise<string | undefined> {
    const { store, clock } = this.#deps;
    const left = () => old.expires - clock.wall();
    if (!(await store.claimRenewal(id, RENEWAL_MS))) {
      for (let waited = 0; left() <= 0 && waited < RENEWAL_MS; waited += LOOK_MS) {
        await pause(LOOK_MS);
        const now = await store.use(id, this.#deps.idleMs);
        if (now === undefined || !now.sealed.equals(found.sealed))
          return now && this.#opened(keys, id, now)?.accessToken;
      }
      return old.accessToken;
    }
    try {
      const tokens = await this.#signIn(found.issuer)?.renew(old.refreshToken!);
      if (tokens === undefined) {
        await store.remove(id);
        return undefined;
      }
      await store.renewed(id, this.#sealed(keys, id, kept(tokens)));
      return tokens.accessToken;
    } catch (error) {
      this.#deps.events.trouble("sign_in_failed", error, { issuer: found.issuer });
      await store.renewed(id, undefined);
      if (left() > 0) return old.accessToken;
      throw new AppError("ISSUER_UNAVAILABLE", "the session cannot be renewed at its issuer now", {
        retryAfterMs: 1_000,
      });
    }
  }

  async #add(issuer: string, tokens: Kept): Promise<string> {
    const { store, keyring, maxAgeMs, idleMs } = this.#deps;
    const keys = keyring.current;
    const secret = randomBytes(32).toString("base64url");
    const id = idOf(keys, secret);
    await store.add({ id, issuer, sealed: this.#sealed(keys, id, tokens), maxAgeMs, idleMs });
    return `${keys.kid}${secret}${macOf(keys, secret)}`;
  }

  #named(cookie: string): { readonly keys: Keys; readonly id: Buffer } | undefined {
    const [, kid = "", secret = "", mac = ""] = COOKIE.exec(cookie) ?? [];
    const keys = this.#deps.keyring.get(kid);
    if (keys === undefined || !sameSecret(Buffer.from(macOf(keys, secret)), Buffer.from(mac))) return undefined;
    return { keys, id: idOf(keys, secret) };
  }

  #attempt(cookie: string | undefined): (Attempt & { readonly tab: boolean }) | undefined {
    const keys = cookie === undefined ? undefined : this.#deps.keyring.get(cookie.slice(0, 1));
    const text = keys && openText(keys.consoleSeal, "attempt", Buffer.from(cookie!.slice(1), "base64url"));
    if (text === undefined) return undefined;
    const attempt = JSON.parse(text) as Attempt & { tab: boolean; until: number };
    return attempt.until > this.#deps.clock.wall() ? attempt : undefined;
  }

  #sealed(keys: Keys, id: Buffer, tokens: Kept): Buffer {
    return sealText(keys.consoleSeal, `session ${id.toString("base64url")}`, JSON.stringify(tokens));
  }

  #opened(keys: Keys, id: Buffer, { sealed }: Found): Kept | undefined {
    const text = openText(keys.consoleSeal, `session ${id.toString("base64url")}`, sealed);
    return text === undefined ? undefined : (JSON.parse(text) as Kept);
  }

  #signIn(issuer: string): SignIn | undefined {
    return this.#deps.signIns.find(({ about }) => about.name === issuer);
  }

  async #bounded<T>(who: keyof typeof MOST, work: () => Promise<T>): Promise<T> {
    if (this.#waiting[who] >= MOST[who]) {
      throw new AppError("OVERLOADED", "too many sessions are being looked up; nothing was done", {
        retryAfterMs: 1_000,
      });
    }
    this.#waiting[who]++;
    try {
      return await work();
    } finally {
      this.#waiting[who]--;
    }
  }
}

/** The tokens with the end that the JWT itself says. One without is refused before it is used. */
function kept(tokens: IssuedTokens): Kept {
  return { ...tokens, expires: (decodeJwt(tokens.accessToken).exp ?? 0) * 1000 };
}

function idOf(keys: Keys, secret: string): Buffer {
  return keys.console.fields("session", secret);
}

function macOf(keys: Keys, secret: string): string {
  return keys.console.fields("cookie", secret).subarray(0, 16).toString("base64url");
}

function problemOf(error: unknown): SignInProblem {
  if (!(error instanceof AppError)) return "refused";
  if (error.reason === "CALLER_FORBIDDEN") return "forbidden";
  return error.reason === "CALLER_UNAUTHENTICATED" ? "refused" : "unavailable";
}
