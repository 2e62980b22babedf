// The decision alone, in one process without sockets: its cost, and the heap per cached token. As a program (`node
// --expose-gc bench/decision.ts`) it prints its figures as JSON.
import { execFileSync } from "node:child_process";
import { create, toBinary } from "@bufbuild/protobuf";
import { ValidateTokenCodec } from "../src/data-plane/validate-token.ts";
import { NO_REQUIREMENT } from "../src/domain/decide.ts";
import { Freshness } from "../src/domain/freshness.ts";
import { freshKeyring, Keyring } from "../src/domain/keyring.ts";
import type { TokenSnapshot } from "../src/domain/token-snapshot.ts";
import { mintTokenString } from "../src/domain/token-string.ts";
import { ValidateTokenRequestSchema, Verdict } from "../src/gen/sallyport/v1/token_validator_pb.ts";
import { systemClock, systemTimers } from "../src/sallyport.ts";
import { createTelemetry } from "../src/telemetry/telemetry.ts";
import { AccessAudit } from "../src/validation/access-audit.ts";
import { LastUse } from "../src/validation/last-use.ts";
import { Lookup } from "../src/validation/lookup.ts";
import type { TokenReader } from "../src/validation/ports.ts";
import { type Recorded, type Validate, validateKnownWith, validateWith } from "../src/validation/validate.ts";
import { median } from "./measure.ts";
import { digits } from "./report.ts";
import { validateGrpc } from "./request.ts";

const TOKENS = 100_000;
const ROUNDS = 7;
const CALLS = 200_000;
const NOWHERE = { clientAddress: "" };
const EPOCH = "1/bench/1";

export interface DecisionFigures {
  /** CPU µs per decision, the median of the rounds: one token repeatedly, and all tokens in turn. */
  readonly hot: number;
  readonly spread: number;
  readonly forged: number;
  /** The further cost of a decision whose use is recorded with address, method, host and path. */
  readonly recorded: number;
  /** Bytes per cached token: as read, and with its prepared reply. */
  readonly cachedBytes: number;
  readonly answeredBytes: number;
}

/** Runs the measurement in its own process. */
export function measureDecision(): DecisionFigures {
  const args = ["--expose-gc", import.meta.filename];
  return JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8", timeout: 120_000 })) as DecisionFigures;
}

export function decisionTable(figures: DecisionFigures): string {
  const line = (what: string, value: number, unit: string, most?: number) =>
    `| ${what} | **${digits(value)}** ${unit} | ${most === undefined ? "" : `≤ ${most}`} | ${most === undefined ? "" : value <= most ? "met" : "not met"} |`;
  return [
    "## The decision itself, without a transport",
    "",
    `Question read, shape, HMAC, L1, use rule, decision, counters, last use, prepared reply; ${TOKENS.toLocaleString("en")} tokens cached.`,
    "",
    "| | | budget | |",
    "|---|---|---|---|",
    line("L1 hit, the same token", figures.hot, "µs CPU", 4),
    line("L1 hit, all tokens in turn", figures.spread, "µs CPU"),
    line("forged string", figures.forged, "µs CPU"),
    line("`access_audit: full`, with method, host and path", figures.recorded, "µs CPU more", 0.5),
    line("a cached token", figures.cachedBytes, "bytes", 600),
    line("a cached token with its prepared reply", figures.answeredBytes, "bytes"),
  ].join("\n");
}

async function figures(): Promise<DecisionFigures> {
  const keyring = new Keyring(...ringOf());
  const minted = Array.from({ length: TOKENS }, () => mintTokenString("sp_pat", keyring.current));
  const stranger = question(mintTokenString("sp_pat", new Keyring(...ringOf()).current).tokenString.reveal());
  const questions = minted.map(({ tokenString }) => question(tokenString.reveal()));
  const { wire, lookup, validate } = decider(keyring);
  const deadline = performance.now() + 600_000;
  const ask = (message: Uint8Array) => wire.binary(message, { deadline, reasons: false });

  const empty = held();
  // Not through the codec, so that nothing is encoded yet.
  for (const { tokenString } of minted) await validate(tokenString.reveal(), NO_REQUIREMENT, NOWHERE, deadline);
  const cached = lookup.entries;
  if (cached < TOKENS) throw new Error(`only ${cached} tokens are cached`);
  const asRead = held();
  for (const message of questions) hit(ask(message));
  const answered = held();
  return {
    hot: costOf(() => hit(ask(questions[0]!))),
    spread: costOf((i) => hit(ask(questions[i % TOKENS]!))),
    forged: await costOfLater(() => ask(stranger)),
    recorded: await costOfRecord(keyring),
    cachedBytes: (asRead - empty) / TOKENS,
    answeredBytes: (answered - empty) / TOKENS,
  };
}

function ringOf(): [string, Record<string, string>] {
  const { current, keys } = freshKeyring();
  return [current, keys];
}

function question(tokenString: string): Uint8Array {
  return validateGrpc(tokenString, Verdict.ALLOW).body.subarray(5);
}

/** The two are measured in turn, so that both meet the same machine. */
async function costOfRecord(keyring: Keyring): Promise<number> {
  const { tokenString } = mintTokenString("sp_pat", keyring.current);
  const context = {
    clientAddress: "203.0.113.7",
    method: "GET",
    host: "api.example.com",
    path: "/v1/orders/4711?page=2",
  };
  const request = { tokenString: tokenString.reveal(), requiredScopes: ["items.read"], context };
  const message = Buffer.from(toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, request)));
  const deadline = performance.now() + 600_000;
  const askers = await Promise.all(
    [undefined, recorder()].map(async (recorded) => {
      const { wire } = decider(keyring, recorded);
      await wire.binary(message, { deadline, reasons: false });
      return () => hit(wire.binary(message, { deadline, reasons: false }));
    }),
  );
  const costs = Array.from({ length: ROUNDS }, () => askers.map((ask) => costOf(ask, 1)) as [number, number]).slice(1);
  return median(costs.map(([without, recorded]) => recorded - without));
}

/** Records as the program does, and forgets before the uses are as many as fit. */
function recorder(): Recorded {
  const profiles = new Map([["pat", { accessAudit: "full", accessAuditSample: 1 }]] as const);
  const events = { accessDropped: () => {}, trouble: () => {} };
  const deps = { clock: systemClock, timers: systemTimers, events, random: Math.random, later: setImmediate };
  const fresh = () =>
    new AccessAudit({ ...deps, profiles, store: { append: async () => {} }, now: Date.now }).recorder("data")!;
  let [record, uses] = [fresh(), 0];
  return (...use) => {
    if (uses++ % 16_000 === 0) record = fresh();
    record(...use);
  };
}

/** The program's own parts over a store that answers at once. */
function decider(
  keyring: Keyring,
  recorded?: Recorded,
): { wire: ValidateTokenCodec; lookup: Lookup; validate: Validate } {
  const clock = systemClock;
  const timers = systemTimers;
  const telemetry = createTelemetry("fatal");
  const freshness = new Freshness(3_600_000);
  freshness.begin(EPOCH, clock.mono());
  const page = {
    inRecovery: false,
    epoch: EPOCH,
    position: 1,
    dbTime: Date.now(),
    ownRowLive: true,
    proven: true,
    floorN: 0,
    rows: [],
    full: false,
  };
  freshness.apply(page, clock.mono(), clock.mono());
  const reader: TokenReader = {
    read: (digest) => {
      const at = clock.mono();
      return Promise.resolve({
        ...{ inRecovery: false, epoch: EPOCH, proven: true, position: 1, dbTime: Date.now() },
        ...{ snapshot: snapshotOf(digest), sent: at, received: at },
      });
    },
    reconnect: () => {},
  };
  const lookup = new Lookup(
    { freshness, reader, clock, timers, events: telemetry, wake: () => {} },
    {
      ...{ l1Entries: TOKENS, l1Bytes: 1 << 30, l1TtlMs: 3_600_000, l1DeadTtlMs: 5_000 },
      ...{ maxCacheReads: 256, maxReads: 64, maxQueuedReads: 512, readTimeoutMs: 400 },
    },
  );
  const store = { flush: async () => {} };
  const usage = new LastUse({ store, clock, timers, events: telemetry, now: Date.now }, 60_000);
  const used = usage.used.bind(usage);
  const deps = { keyring, lookup, freshness, clock, events: telemetry.forListener("data"), used, recorded };
  const validate = validateWith(deps);
  return { wire: new ValidateTokenCodec(validate, validateKnownWith(deps)), lookup, validate };
}

let made = 0;

/** In the form of the database client: every string is a new one. */
function snapshotOf(digest: string): TokenSnapshot {
  const fresh = (text: string) => Buffer.from(text).toString("latin1");
  return {
    version: { epoch: EPOCH, position: 1 },
    id: fresh(`tok_${String(made++).padStart(22, "0")}`),
    digest,
    ...{ tenant: fresh("default"), profile: fresh("pat"), principal: fresh(`user:u${made % 1000}`) },
    ...{ scopes: [fresh("items.read"), fresh("items.write")], roles: [], attachments: [] },
    ...{ audiences: [], allowedCidrs: [], annotations: {} },
    hint: fresh("sp_pat_1aB3dE5fG"),
    ...{ rotated: false, principalState: "ACTIVE", tenantState: "ACTIVE" },
    ...{ revoked: false, disabled: false, cut: false, expire: Date.now() + 86_400_000 },
  };
}

/** The prepared reply that the transport gets for an answer without I/O. */
function hit(encoded: ReturnType<ValidateTokenCodec["binary"]>): unknown {
  if (encoded instanceof Promise) throw new Error("an L1 hit waited for something");
  return encoded.reply({ protocol: "grpc" });
}

function costOf(call: (i: number) => unknown, rounds = ROUNDS): number {
  return median(
    Array.from({ length: rounds + 1 }, () => {
      const start = process.cpuUsage();
      for (let i = 0; i < CALLS; i++) call(i);
      const { user, system } = process.cpuUsage(start);
      return (user + system) / CALLS;
    }).slice(1),
  );
}

async function costOfLater(call: () => unknown): Promise<number> {
  const costs: number[] = [];
  for (let round = 0; round <= ROUNDS; round++) {
    const start = process.cpuUsage();
    for (let i = 0; i < CALLS / 4; i++) await call();
    const { user, system } = process.cpuUsage(start);
    costs.push((user + system) / (CALLS / 4));
  }
  return median(costs.slice(1));
}

/** Bytes that the process keeps, buffers included. */
function held(): number {
  for (let i = 0; i < 3; i++) (globalThis as { gc?: () => void }).gc!();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

if (import.meta.main) {
  console.log(JSON.stringify(await figures()));
  process.exit(0);
}
