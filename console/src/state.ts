import { computed, signal } from "@preact/signals";
import type { GetServerInfoResponse } from "../gen/sallyport/v1/server_info_pb.ts";
import { looksSecret, millis } from "./text.ts";
import {
  type Credential,
  endSession,
  failureOf,
  forgetCredential,
  info,
  isSession,
  keepCredential,
  surely,
  whenRefused,
} from "./wire.ts";

export interface Settings {
  readonly version: string;
  readonly tokenSignIn: boolean;
  /** Seconds. */
  readonly idleTimeout: number;
  /** Where single sign-on is offered. */
  readonly issuers: readonly { readonly name: string; readonly label: string }[];
}

/** What `config.json` says; undefined until it is read. */
export const settings = signal<Settings | undefined>(undefined);
/** The caller and the profiles; undefined while nobody is signed in. */
export const me = signal<GetServerInfoResponse | undefined>(undefined);
/** Why the last session ended, for the sign-in page. */
export const ended = signal("");
/** The tenants of a session that has several, while nobody has chosen one. */
export const choices = signal<readonly string[]>([]);
/** True while a form waits for its person to sign in again. */
export const lapsed = signal(false);
/** Another one with each person who signs in, so that no form passes from one to the next. */
export const person = signal(0);
/** The tenant that the pages show; `-` for all of them. */
export const tenant = signal("");
/** Grows with each change that this page made, so that lists are read again. */
export const changes = signal(0);
/** Results that stay until the page is left, by token id or page. */
export const notes = signal<ReadonlyMap<string, unknown>>(new Map());

export const permissions = computed(() => new Set(me.value?.caller?.permissions));
export const may = (permission: string) => permissions.value.has(permission);

/** The caller's own tenant, whatever tenant the pages show. */
export const homeTenant = () => me.value?.caller?.tenant || "default";

/** True for a text that must not be sent, nor be kept in an address. */
export const isSecret = (text: string) =>
  looksSecret(
    text,
    (me.value?.profiles ?? []).map(({ prefix }) => prefix),
  );

let skew = 0;
/** The server's time now. */
export const now = () => Date.now() + skew;

let used = Date.now();

export async function signIn(credential: Credential): Promise<void> {
  keepCredential(credential);
  try {
    const answer = await info.getServerInfo({});
    if (answer.serverTime !== undefined) skew = millis(answer.serverTime) - Date.now();
    used = Date.now();
    const before = me.value?.caller;
    const caller = answer.caller!;
    const same = before?.principal === caller.principal && before.provenance === caller.provenance;
    if (!same || before.tenant !== caller.tenant) {
      person.value++;
      tenant.value = caller.tenant || "default";
      if (!same) notes.value = new Map();
    }
    me.value = answer;
    ended.value = "";
    choices.value = [];
    lapsed.value = false;
    refused = false;
  } catch (error) {
    const { tenants } = failureOf(error);
    if (tenants.length > 0) choices.value = tenants;
    if (!lapsed.value) forgetCredential();
    throw error;
  }
}

/** Goes on with the session that the browser's cookie names, if there is one. */
export async function resume(): Promise<void> {
  if (settings.value?.issuers.length) await signIn({ tenant: me.value?.caller?.tenant ?? "" }).catch(() => undefined);
}

export function signOut(why = ""): void {
  forgetCredential();
  me.value = undefined;
  tenant.value = "";
  choices.value = [];
  lapsed.value = false;
  notes.value = new Map();
  ended.value = unseen.size === 0 ? why : `${why} A token may exist that nobody has seen. Look for it and revoke it.`;
  unseen.clear();
  refused = false;
}

/** What the button does: it ends the session of a single sign-on, too. */
export async function leave(): Promise<void> {
  const over = !isSession() || (await endSession());
  signOut(
    over ? "You are signed out." : "The server did not confirm that your session has ended. Sign in and out again.",
  );
}

/** What may have made a token whose string did not come, by request id. */
const unseen = new Set<string>();
let holds = 0;
let refused = false;

/** Puts off a sign-out that nobody asked for, so that no new string is lost with the page. Returns what ends it. */
export function hold(): () => void {
  let over = false;
  holds++;
  return () => {
    if (over) return;
    over = true;
    holds--;
    // Later, when the dialog that held it has gone.
    setTimeout(() => holds === 0 && refused && refuse());
  };
}

/** Makes a token, and gives the answer to `take` before a sign-out can come between. */
export async function making<T>(requestId: string, call: () => Promise<T>, take: (answer: T) => void): Promise<void> {
  const release = hold();
  let unsure = unseen.has(requestId);
  unseen.add(requestId);
  const attempt = () =>
    call().catch((error) => {
      unsure ||= failureOf(error).unsure;
      throw error;
    });
  try {
    take(await surely(attempt));
    unsure = false;
  } finally {
    if (!unsure) unseen.delete(requestId);
    release();
  }
}

/** The caller's own token was rotated: from here on the page sends its successor. */
export function succeed(id: string, tokenString: string): void {
  keepCredential({ token: tokenString });
  refused = false;
  const { caller } = me.value!;
  me.value = { ...me.value!, caller: { ...caller!, tokenId: id } };
  info.getServerInfo({}).then(
    (answer) => {
      me.value = answer;
    },
    () => undefined,
  );
}

function refuse(): void {
  if (holds > 0) refused = true;
  // A form that is open stays, for the same person.
  else if (me.value !== undefined && document.querySelector("dialog[open]") !== null) lapsed.value = true;
  else if (isSession()) signOut(me.value === undefined ? "" : "Your session has ended. Sign in again.");
  else signOut("Your token no longer works. Sign in again.");
}
whenRefused(refuse);

const touch = () => {
  used = Date.now();
};
for (const event of ["pointerdown", "keydown", "wheel"])
  addEventListener(event, touch, { capture: true, passive: true });
const checkIdle = () => {
  const limit = settings.value?.idleTimeout ?? 900;
  if (me.value !== undefined && holds === 0 && Date.now() - used >= limit * 1000) {
    signOut("You were signed out because the page was not used for a while.");
  }
};
setInterval(checkIdle, 5_000);
document.addEventListener("visibilitychange", checkIdle);
// Also when the page is kept for the Back button.
addEventListener("pagehide", () => signOut());
addEventListener("pageshow", (event) => event.persisted && void resume());

/** The route: `#/tokens?state=ACTIVE`. */
export const route = signal(parse());
addEventListener("hashchange", () => {
  route.value = parse();
});

function parse() {
  const [path = "", query = ""] = location.hash.replace(/^#/, "").split("?", 2);
  return { path: path === "" ? "/" : path, query: new URLSearchParams(query) };
}

export function href(path: string, query: Record<string, string | undefined> = {}): string {
  const given = Object.entries(query).filter((entry): entry is [string, string] => Boolean(entry[1]));
  const text = new URLSearchParams(given).toString();
  return `#${path}${text === "" ? "" : `?${text}`}`;
}

export function go(path: string, query?: Record<string, string | undefined>): void {
  location.hash = href(path, query);
}

/** Sets a note, shown until somebody leaves the page. */
export function note(key: string, value: unknown): void {
  notes.value = new Map([...notes.value, [key, value]]);
}
