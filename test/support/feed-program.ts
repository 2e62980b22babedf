import { createInterface } from "node:readline";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { decide, NO_REQUIREMENT, type TimeBounds } from "../../src/domain/decide.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import { TokenValidator, Verdict, type WatchChangesResponse } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { type Answer, FeedCache } from "./feed-cache.ts";

/*
 * A program with a client cache, for tests: it follows the feed of one instance and judges tokens, most of them by its
 * cache. Commands come as lines of JSON on its standard input: `servers` and `tokens` to use, and `report`, which it
 * answers with a line.
 */

interface Facts {
  readonly expire: number | undefined;
  readonly scopes: readonly string[];
}

/** A token's last ALLOW from the cache: the start of the call, on CLOCK_MONOTONIC in milliseconds. */
const allowed: Record<string, number> = {};
const counts = { cached: 0, asked: 0, polls: 0, failed: 0, leased: false, position: 0 };
const mono = () => Number(process.hrtime.bigint()) / 1e6;

const cache = new FeedCache<Facts>();
const cacheId = crypto.randomUUID();
let servers: string[] = [];
let tokens: string[] = [];
let at = 0;
let instanceId = "";

const clientOf = (baseUrl: string) => createClient(TokenValidator, createGrpcTransport({ baseUrl }));
/** The feed has a connection of its own: sharing it with checks starves it. */
let feed: { url: string; client: ReturnType<typeof clientOf> } | undefined;
let checks: { url: string; client: ReturnType<typeof clientOf> } | undefined;

function connected(now: typeof feed): NonNullable<typeof feed> {
  const url = servers[at % servers.length]!;
  return now?.url === url ? now : { url, client: clientOf(url) };
}

const ms = (time: { seconds: bigint; nanos: number } | undefined) =>
  time === undefined ? undefined : Number(time.seconds) * 1000 + time.nanos / 1e6;

function answerOf({ epoch, position, floor, changed, lease, timeLower, timeUpper }: WatchChangesResponse): Answer {
  const [lower, upper] = [ms(timeLower), ms(timeUpper)];
  const time: TimeBounds | undefined = lower === undefined || upper === undefined ? undefined : { lower, upper };
  const changes = { position: Number(position), floor: Number(floor), tags: changed };
  return { epoch, changes, leaseMs: ms(lease), time };
}

async function follow(): Promise<void> {
  for (let sequence = 1n; ; sequence++) {
    feed = connected(feed);
    const sent = mono();
    const poll = { cacheId, sequence, epoch: cache.epoch, position: BigInt(cache.position), instanceId };
    try {
      const answer = await feed.client.watchChanges(poll, { timeoutMs: 1_500 });
      counts.polls++;
      if (answer.sequence !== sequence) throw new Error("another answer");
      cache.apply(answerOf(answer), sent, mono());
      instanceId = answer.instanceId;
    } catch {
      counts.failed++;
      at++;
      feed = undefined;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

const asking = new Set<string>();

async function ask(token: string): Promise<void> {
  if (asking.size >= 8 || asking.has(token)) return;
  asking.add(token);
  checks = connected(checks);
  try {
    counts.asked++;
    const {
      entry,
      verdict,
      token: shown,
    } = await checks.client.validateToken({ tokenString: token, wantEntry: true }, { timeoutMs: 300 });
    if (entry !== undefined) {
      const { epoch, position, tags, notBeforeTime } = entry;
      const value =
        verdict === Verdict.INVALID_TOKEN ? undefined : { expire: ms(shown?.expireTime), scopes: shown!.scopes };
      const rest = { epoch, position: Number(position), tags, notBefore: ms(notBeforeTime) };
      cache.store(token, { ...rest, value, storedAt: mono() });
    }
  } catch {
    checks = undefined;
  }
  asking.delete(token);
}

function check(token: string): void {
  const start = mono();
  const hit = cache.get(token, start);
  if (hit === undefined) return void ask(token);
  counts.cached++;
  if (hit.value === undefined) return;
  const facts = { ...LIVE, ...hit.value, notBefore: hit.notBefore } as unknown as TokenSnapshot;
  if (decide(facts, NO_REQUIREMENT, { clientAddress: "" }, cache.time(start)).verdict === "ALLOW")
    allowed[token] = start;
}

const LIVE = {
  ...{ revoked: false, disabled: false, cut: false, principalState: "ACTIVE", tenantState: "ACTIVE" },
  ...{ audiences: [], allowedCidrs: [] },
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line) as { servers?: string[]; tokens?: string[]; report?: number };
  const first = servers.length === 0;
  servers = command.servers ?? servers;
  tokens = command.tokens ?? tokens;
  if (command.servers !== undefined && first) void follow();
  if (command.report === undefined) return;
  counts.leased = mono() < cache.leaseUntil;
  counts.position = cache.position;
  process.stdout.write(`${JSON.stringify({ report: command.report, allowed, ...counts })}\n`);
});
setInterval(() => {
  if (servers.length > 0) for (const token of tokens) check(token);
}, 2);
