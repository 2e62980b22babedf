import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { AuditLog } from "../src/gen/sallyport/v1/audit_log_pb.ts";
import { TokenAdmin, TokenState } from "../src/gen/sallyport/v1/token_admin_pb.ts";
import type { Product } from "./product.ts";

/** Callers who list, in a process of their own: their work is none of the load generator's. */
export const CALLERS = 8;

interface Told {
  readonly pages: number;
  readonly turnedAway: number;
}

export class Listing {
  readonly #child: ChildProcess;
  #told: Told = { pages: 0, turnedAway: 0 };

  constructor(product: Product) {
    const { baseUrl, headers } = product.admin();
    this.#child = fork(fileURLToPath(import.meta.url), [baseUrl], {
      env: { ...process.env, BEARER: headers.authorization },
    });
  }

  get told(): Told {
    return this.#told;
  }

  async during(work: () => Promise<unknown>): Promise<void> {
    this.#child.send("list");
    try {
      await work();
    } finally {
      this.#child.send("rest");
      [this.#told] = (await once(this.#child, "message")) as [Told];
    }
  }

  stop(): void {
    this.#child.kill();
  }
}

/** Each caller asks for something else, again and again, page after page. */
function callers(baseUrl: string, authorization: string) {
  const transport = createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: true });
  const [admin, audit] = [createClient(TokenAdmin, transport), createClient(AuditLog, transport)];
  const headers = { authorization };
  const tokens = (filter: object) => (pageToken: string) =>
    admin.listTokens({ ...filter, pageSize: 500, pageToken }, { headers });
  const events = (filter: object) => (pageToken: string) =>
    audit.listAuditEvents({ ...filter, pageSize: 500, pageToken }, { headers });
  const dryRun = async () => {
    await admin.revokeTokens({ createdBy: "nobody", dryRun: true }, { headers });
    return { nextPageToken: "" };
  };
  return [
    tokens({ profile: "svc" }),
    tokens({ state: TokenState.REVOKED }),
    tokens({ hint: "sp_pat_1none" }),
    tokens({ lastUsedBefore: { seconds: 1n, nanos: 0 } }),
    events({ actor: "user:list7" }),
    events({ action: "token.reuse" }),
    events({ owner: "user:list7" }),
    dryRun,
  ];
}

if (process.send !== undefined && process.argv[1] === fileURLToPath(import.meta.url)) {
  const asks = callers(process.argv[2]!, process.env["BEARER"]!);
  let [over, pages, turnedAway] = [true, 0, 0];
  let running: Promise<unknown> = Promise.resolve();
  const loop = async (ask: (typeof asks)[number]) => {
    for (let pageToken = ""; !over; ) {
      try {
        ({ nextPageToken: pageToken } = await ask(pageToken));
        pages++;
      } catch (error) {
        // Lists have few places; who finds none asks again.
        const { code } = ConnectError.from(error);
        if (code !== Code.ResourceExhausted && code !== Code.Unavailable) throw error;
        turnedAway++;
        pageToken = "";
      }
    }
  };
  process.on("message", (what) => {
    over = what === "rest";
    if (over) void running.then(() => process.send!({ pages, turnedAway }));
    else running = Promise.all(asks.map(loop));
  });
}
