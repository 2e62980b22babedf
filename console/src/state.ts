import { computed, signal } from "@preact/signals";
import type { GetServerInfoResponse } from "../gen/sallyport/v1/server_info_pb.ts";
import { looksSecret, millis } from "./text.ts";
import { failureOf, forgetCredential, info, keepCredential, surely, whenRefused } from "./wire.ts";

export interface Settings {
  readonly version: string;
  readonly tokenSignIn: boolean;
  /** Seconds. */
  readonly idleTimeout: number;
}

/** What `config.json` says; undefined until it is read. */
export const settings = signal<Settings | undefined>(undefined);
/** The caller and the profiles; undefined while nobody is signed in. */
export const me = signal<GetServerInfoResponse | undefined>(undefined);
/** Why the last session ended, for the sign-in page. */
export const ended = signal("");
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

export async function signIn(token: string): Promise<void> {
  keepCredential(token);
  try {
    const answer = await info.getServerInfo({});
    if (answer.serverTime !== undefined) skew = millis(answer.serverTime) - Date.now();
    used = Date.now();
    const caller = answer.caller!;
    if (tenant.value === "" || me.value === undefined) tenant.value = caller.tenant || "default";
    me.value = answer;
    ended.value = "";
  } catch (error) {
    forgetCredential();
    throw error;
  }
}

export function signOut(why = ""): void {
  forgetCredential();
  me.value = undefined;
  tenant.value = "";
  notes.value = new Map();
  ended.value = unseen.size === 0 ? why : `${why} A token may exist that nobody has seen. Look for it and revoke it.`;
  unseen.clear();
  refused = false;
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
    if (--holds === 0 && refused) refuse();
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
  keepCredential(tokenString);
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
