import { type Caller, holds, isAdministrator } from "../domain/caller.ts";
import type { Minter, Profile } from "../domain/profile.ts";
import type { Effect } from "../revocation/effect.ts";
import type { Registry } from "./ports.ts";

/** The facts about the server that a caller may know. */
export interface ServerInfo {
  readonly version: string;
  readonly profiles: ReadonlyMap<string, Profile>;
  readonly registry: Registry;
  /** The database's time, or an earlier one. Milliseconds since 1970. */
  now(): number;
  redis(): "OFF" | "READY" | "AWAY";
  /** The effect of the last change that this process waited for. */
  lastWait(): Effect | undefined;
}

/** True if the caller may create tokens of this profile for some principal, as the rules of issue decide for each. */
export function canCreate(caller: Caller, { mintedBy, principals }: Profile): boolean {
  const mayForOthers = holds(caller, "sallyport.tokens.create");
  if (caller.kind !== "session" && !mayForOthers) return false;
  const [type = ""] = caller.principal.split(":", 1);
  const { kind } = caller;
  const own: Minter[] =
    (kind === "token" || kind === "session") && principals.some((one) => one === type) ? [kind] : [];
  const others: Minter[] = isAdministrator(caller) ? ["admin"] : mayForOthers ? ["creator"] : [];
  return [...own, ...others].some((minter) => mintedBy.includes(minter));
}
