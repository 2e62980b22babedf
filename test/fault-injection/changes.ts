import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import type pg from "pg";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { type Effect, EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { PrincipalState } from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { TenantState } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import { SCOPE } from "./askers.ts";
import type { Cell, Kind, Toggle } from "./cells.ts";
import type { Attempt, History, Outcome } from "./history.ts";
import type { Instance } from "./instance.ts";

/** The instance that makes a change, and its caller. */
export interface Changer {
  readonly history: History;
  readonly adminToken: string;
  /** A connection for SQL by hand; undefined while the database is unreachable. */
  readonly sql: () => Promise<pg.Client | undefined>;
}

/** The time after the commit at which a change is in force everywhere, without any wait: L·1.2 + 50 ms. */
export const BY_HAND_MS = 1850;
const DEADLINE_MS = 6_000;
const TEN_DAYS_MS = 864_000_000;
let serial = 0;

export interface CallOptions {
  readonly headers: Record<string, string>;
  readonly timeoutMs: number;
}

/** The result of a successful change: the mode of its effect, and the time until it is in force if nobody waited. */
interface Done {
  readonly detail: string;
  readonly forceAfterMs?: number;
}

type Change = (cell: Cell, at: Instance, options: CallOptions) => Promise<Effect | Done | undefined>;

/** One change of authority that ends a cell's tokens, by one instance. Returns its outcome; never rejects. */
export function end(cell: Cell, at: Instance, changer: Changer, timeoutMs = DEADLINE_MS): Promise<Attempt> {
  if (cell.kind === "sql") return byHand(cell, changer);
  const change = CHANGES[cell.kind] ?? revoke;
  return attempt({ op: cell.kind, cell, at, changer, timeoutMs }, (options) => change(cell, at, options));
}

/** Reverts `end` for a cell that can be toggled. */
export function raise(cell: Cell, at: Instance, changer: Changer): Promise<Attempt> {
  const change = RAISES[cell.kind as Toggle];
  return attempt({ op: `${cell.kind} again`, raises: true, cell, at, changer, timeoutMs: DEADLINE_MS }, (options) =>
    change(cell, at, options),
  );
}

export const isToggle = (kind: Kind): kind is Toggle => Object.hasOwn(RAISES, kind);

interface What {
  readonly op: string;
  readonly raises?: boolean;
  /** The affected tokens; undefined if they are yet to be created. */
  readonly cell: Cell | undefined;
  readonly at: Instance;
  readonly changer: Changer;
  readonly timeoutMs: number;
}

/** Makes one call, for the history and the audit. */
export async function attempt(
  what: What,
  call: (options: CallOptions) => Promise<Effect | Done | undefined>,
): Promise<Attempt> {
  const { op, raises, cell, at, changer, timeoutMs } = what;
  const id = `h-${process.pid}-${++serial}`;
  const headers = { authorization: `Bearer ${changer.adminToken}`, "x-request-id": id };
  const request = cell?.requestId;
  const made: Attempt = { id, op, at: at.name, request, invoked: performance.now(), ...(raises && { raises }) };
  const subjects = cell?.subjects ?? [];
  changer.history.begin(subjects, made);
  try {
    const answer = await call({ headers, timeoutMs });
    const { detail, forceAfterMs } = answer === undefined || "detail" in answer ? (answer ?? DONE) : doneOf(answer);
    changer.history.end(subjects, made, "OK", detail, forceAfterMs);
  } catch (error) {
    changer.history.end(subjects, made, ...readError(error));
  }
  return made;
}

const DONE: Done = { detail: "" };

function doneOf({ mode, effectiveBy }: Effect): Done {
  const detail = Object.entries(EffectMode).find(([, number]) => number === mode)?.[0] ?? "";
  if (mode !== EffectMode.ACCEPTED) return { detail };
  // The database's time, which on this host is ours.
  const forceAfterMs = timestampMs(effectiveBy!) - Date.now();
  if (!(forceAfterMs <= BY_HAND_MS + 50)) throw new Error(`in force only ${forceAfterMs} ms after the answer`);
  return { detail, forceAfterMs };
}

const disabled = (state: PrincipalState): Change => {
  return async ({ principal: name }, at, options) =>
    (await at.principals.updatePrincipal({ principal: { name, state }, updateMask: { paths: ["state"] } }, options))
      .effect;
};

const tenantIs = (state: TenantState): Change => {
  return async ({ tenant: id }, at, options) =>
    (await at.tenants.updateTenant({ tenant: { id, state }, updateMask: { paths: ["state"] } }, options)).effect;
};

const attachedIs = (state: TenantState): Change => {
  return (cell, ...rest) => tenantIs(state)({ ...cell, tenant: cell.attached! }, ...rest);
};

const token = (change: { scopes?: string[]; disabled?: boolean; tenants?: string[] }): Change => {
  const updateMask = { paths: Object.keys(change) };
  return async ({ target: id }, at, options) =>
    (await at.tokens.updateToken({ token: { id, ...change }, updateMask }, options)).effect;
};

const roleHas = (scopes: string[]): Change => {
  return async ({ role: name }, at, options) =>
    (await at.roles.updateRole({ role: { name, scopes }, updateMask: { paths: ["scopes"] } }, options)).effect;
};

const revoke: Change = async ({ target: value }, at, options) =>
  (await at.tokens.revokeToken({ target: { case: "id", value } }, options)).effect;

/** The way in which each kind ends; the others are revoked. */
const CHANGES: Readonly<Partial<Record<Kind, Change>>> = {
  disable: disabled(PrincipalState.DISABLED),
  restore: disabled(PrincipalState.DISABLED),
  suspend: tenantIs(TenantState.SUSPENDED),
  resume: tenantIs(TenantState.SUSPENDED),
  narrow: token({ scopes: [] }),
  widen: token({ scopes: [] }),
  enable: token({ disabled: true }),
  role: roleHas([]),
  "role-again": roleHas([]),
  "role-deleted": async ({ role: name }, at, options) =>
    (await at.roles.deleteRole({ name, force: true }, options)).effect,
  detach: async ({ attached: tenant = "", target: id }, at, options) =>
    (await at.tokens.detachTenant({ tenant, id }, options)).effect,
  "attached-suspend": attachedIs(TenantState.SUSPENDED),
  "attached-cut": async ({ attached: tenant = "" }, at, options) =>
    (await at.tokens.revokeTokens({ tenant }, options)).effect,
  "attach-again": token({ tenants: [] }),
  cut: async ({ principal }, at, options) => (await at.tokens.revokeTokens({ principal }, options)).effect,
  bulk: async ({ subjects }, at, options) =>
    (await at.tokens.revokeTokens({ ids: subjects.map(({ id }) => id) }, options)).effect,
  // All tokens of a principal one by one, not the principal.
  filter: async ({ principal }, at, options) => {
    const createdBefore = timestampFromMs(Date.now() + TEN_DAYS_MS);
    return (await at.tokens.revokeTokens({ principal, createdBefore }, options)).effect;
  },
  rotate: async ({ target: id, requestId = "" }, at, options) =>
    (await at.tokens.rotateToken({ id, overlap: { seconds: 0n, nanos: 0 }, requestId }, options)).effect,
  "no-wait": async ({ target: value }, at, options) =>
    (await at.tokens.revokeToken({ target: { case: "id", value }, noWait: true }, options)).effect,
  oauth: async ({ subjects, target }, at, { headers, timeoutMs }) => {
    const { tokenString } = subjects.find(({ id }) => id === target)!;
    const form = { ...headers, "content-type": "application/x-www-form-urlencoded" };
    const { status } = await at.adminHttp.ask("POST", "/v1/revoke", form, `token=${tokenString}`, timeoutMs);
    if (status !== 200) throw new Error(`RFC 7009 answered ${status}`);
    return { detail: "RFC 7009" };
  },
};

const RAISES: Readonly<Record<Toggle, Change>> = {
  enable: token({ disabled: false }),
  widen: token({ scopes: [SCOPE] }),
  resume: tenantIs(TenantState.ACTIVE),
  "role-again": roleHas([SCOPE]),
  "attach-again": (cell, ...rest) => token({ tenants: [cell.attached!] })(cell, ...rest),
  restore: disabled(PrincipalState.ACTIVE),
};

/** By SQL, like an operator at a console. */
async function byHand(cell: Cell, { history, sql }: Changer): Promise<Attempt> {
  const made: Attempt = { id: `token:${cell.target}`, op: cell.kind, at: "sql", invoked: performance.now() };
  history.begin(cell.subjects, made);
  try {
    const client = await sql();
    if (client === undefined) throw new Error("the database is away");
    await client.query("select sallyport.revoke($1, 'by hand')", [cell.target]);
    history.end(cell.subjects, made, "OK", "BY_HAND", BY_HAND_MS);
  } catch (error) {
    history.end(cell.subjects, made, "UNKNOWN", (error as Error).message);
  }
  return made;
}

/** Only NOT_DONE means that nothing happened. Without a reason, the call was cut off on its way. */
function readError(error: unknown): [Outcome, string] {
  const failed = ConnectError.from(error);
  const reason = failed.findDetails(ErrorInfoSchema)[0]?.reason;
  if (reason === "NOT_DONE" || reason === "WRITE_CONFLICT") return ["NOT_DONE", reason];
  return ["UNKNOWN", reason ?? `${failed.code} ${failed.rawMessage}`];
}
