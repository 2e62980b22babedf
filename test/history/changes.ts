import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import type pg from "pg";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { PrincipalState } from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { TenantState } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import type { Cell } from "./cells.ts";
import type { Attempt, History, Outcome } from "./history.ts";
import type { Instance } from "./instance.ts";

/** Where a change is made, and who says so. */
export interface Changer {
  readonly history: History;
  readonly adminToken: string;
  /** A connection for SQL by hand; undefined while the database is away. */
  readonly sql: () => Promise<pg.Client | undefined>;
}

/** In force everywhere so long after the commit, without anybody waiting: L·1.2 + 50 ms. */
export const BY_HAND_MS = 1850;
const DEADLINE_MS = 6_000;
const TEN_DAYS_MS = 864_000_000;
let serial = 0;

/** One change of authority that ends a cell's tokens, by one instance. Gives its outcome; never rejects. */
export async function end(cell: Cell, at: Instance, changer: Changer): Promise<Attempt> {
  const { history } = changer;
  const byHand = cell.kind === "sql";
  const id = byHand ? `token:${cell.target}` : `h-${process.pid}-${++serial}`;
  const attempt: Attempt = { id, op: cell.kind, at: byHand ? "sql" : at.name, invoked: performance.now() };
  history.begin(cell.subjects, attempt);
  let outcome: Outcome = "OK";
  let detail = "";
  try {
    detail = byHand ? await byHandOf(cell, changer) : await call(cell, at, changer.adminToken, id);
  } catch (error) {
    [outcome, detail] = byHand ? ["UNKNOWN", (error as Error).message] : readError(error);
  }
  history.end(cell.subjects, attempt, outcome, detail, byHand ? BY_HAND_MS : 0);
  return attempt;
}

async function call(cell: Cell, at: Instance, adminToken: string, requestId: string): Promise<string> {
  const options = {
    headers: { authorization: `Bearer ${adminToken}`, "x-request-id": requestId },
    timeoutMs: DEADLINE_MS,
  };
  const id = cell.target;
  const { effect } = await (() => {
    switch (cell.kind) {
      case "disable": {
        const principal = { name: cell.principal, state: PrincipalState.DISABLED };
        return at.principals.updatePrincipal({ principal, updateMask: { paths: ["state"] } }, options);
      }
      case "suspend": {
        const tenant = { id: cell.tenant, state: TenantState.SUSPENDED };
        return at.tenants.updateTenant({ tenant, updateMask: { paths: ["state"] } }, options);
      }
      case "cut":
        return at.tokens.revokeTokens({ principal: cell.principal }, options);
      case "bulk":
        return at.tokens.revokeTokens({ ids: cell.subjects.map((subject) => subject.id) }, options);
      case "filter": {
        // All of a principal, but not as such: one by one.
        const createdBefore = timestampFromMs(Date.now() + TEN_DAYS_MS);
        return at.tokens.revokeTokens({ principal: cell.principal, createdBefore }, options);
      }
      case "narrow":
        return at.tokens.updateToken({ token: { id, scopes: [] }, updateMask: { paths: ["scopes"] } }, options);
      case "rotate":
        return at.tokens.rotateToken({ id, overlap: { seconds: 0n, nanos: 0 } }, options);
      default:
        return at.tokens.revokeToken({ target: { case: "id", value: id } }, options);
    }
  })();
  const mode = effect?.mode ?? 0;
  return Object.entries(EffectMode).find(([, number]) => number === mode)?.[0] ?? "";
}

async function byHandOf(cell: Cell, changer: Changer): Promise<string> {
  const sql = await changer.sql();
  if (sql === undefined) throw new Error("the database is away");
  await sql.query("select sallyport.revoke($1, 'by hand')", [cell.target]);
  return "BY_HAND";
}

/** Only NOT_DONE says that nothing happened; where there is no reason, the call was cut off on its way. */
function readError(error: unknown): [Outcome, string] {
  const told = ConnectError.from(error);
  const reason = told.findDetails(ErrorInfoSchema)[0]?.reason;
  if (reason === "NOT_DONE" || reason === "WRITE_CONFLICT") return ["NOT_DONE", reason];
  return ["UNKNOWN", reason ?? `${told.code} ${told.rawMessage}`];
}
