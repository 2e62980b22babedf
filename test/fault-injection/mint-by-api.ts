import type { Cell, Kind } from "./cells.ts";
import { attempt, type CallOptions, type Changer } from "./changes.ts";
import { Subject } from "./history.ts";
import type { Instance } from "./instance.ts";

/** The ways in which such tokens end, in turn. */
const KINDS: readonly Kind[] = ["revoke", "parent", "oauth", "enable", "cut", "no-wait", "restore", "rotate"];
const MINT_MS = 4_000;
let made = 0;

/**
 * A cell whose tokens were created by CreateToken: by the administrator or, for a child, by its parent. Undefined if
 * that failed; never rejects.
 */
export async function mintByApi(at: Instance, changer: Changer): Promise<Cell | undefined> {
  const kind = KINDS[made % KINDS.length]!;
  const principal = `org:a-${made++}`;
  const scopes = kind === "parent" ? ["sallyport.tokens.create"] : [];
  const first = await one(at, changer, principal, scopes);
  if (first === undefined) return undefined;
  const cell = { kind, tenant: "default", principal, target: first.id };
  if (kind !== "parent") return { ...cell, subjects: [first] };
  const child = await one(at, changer, principal, [], first.tokenString);
  // The parent alone is enough.
  return {
    ...cell,
    kind: child === undefined ? "revoke" : kind,
    subjects: child === undefined ? [first] : [first, child],
  };
}

async function one(
  at: Instance,
  changer: Changer,
  principal: string,
  scopes: string[],
  as = changer.adminToken,
): Promise<Subject | undefined> {
  let subject: Subject | undefined;
  const create = async ({ headers, timeoutMs }: CallOptions) => {
    const options = { headers: { ...headers, authorization: `Bearer ${as}` }, timeoutMs };
    const lifetime = {
      case: "ttl",
      value: { seconds: as === changer.adminToken ? 7_200n : 3_600n, nanos: 0 },
    } as const;
    const { token, tokenString } = await at.tokens.createToken(
      { profile: "org", principal, scopes, lifetime },
      options,
    );
    subject = new Subject(token!.id, tokenString);
    return undefined;
  };
  const op = as === changer.adminToken ? "create" : "create child";
  await attempt({ op, cell: undefined, at, changer, timeoutMs: MINT_MS }, create);
  return subject;
}
