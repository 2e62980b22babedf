import { readFileSync } from "node:fs";
import { join } from "node:path";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { bearerOf } from "../src/bearer.ts";
import { Checker, type CheckerOptions, type Hooks } from "../src/checker.ts";
import {
  type ValidateTokenRequest,
  type ValidateTokenResponse,
  ValidateTokenResponseSchema,
  Verdict,
  type WatchChangesRequest,
  type WatchChangesResponse,
  WatchChangesResponseSchema,
} from "../src/gen/sallyport/v1/token_validator_pb.ts";
import { NotSent, type Validator } from "../src/validator.ts";

const TOKEN = "opaque-token-of-another-issuer";
const LIVE = { id: "tok_1", tenant: "default", principal: "user:ann", scopes: ["orders.*"] };
const EPOCH = Uint8Array.from([0, 200, 255]);
type Answer = MessageInitShape<typeof ValidateTokenResponseSchema>;

/** A server by hand: answers of checks and of the feed, and what it was asked. */
class Server implements Validator {
  readonly asked: ValidateTokenRequest[] = [];
  readonly timeouts: number[] = [];
  readonly watched: WatchChangesRequest[] = [];
  answers: (Answer | Error)[] = [];
  closed = false;
  #waiting: { answer: (response: WatchChangesResponse) => void; fail: (error: Error) => void } | undefined;
  #arrived: (() => void) | undefined;

  async validate(request: ValidateTokenRequest, timeoutMs: number): Promise<ValidateTokenResponse> {
    this.asked.push(request);
    this.timeouts.push(timeoutMs);
    const answer = this.answers.shift() ?? new Error("no answer");
    if (answer instanceof Error) throw answer;
    return create(ValidateTokenResponseSchema, answer);
  }

  watch(request: WatchChangesRequest, _timeoutMs: number, signal?: AbortSignal): Promise<WatchChangesResponse> {
    this.watched.push(request);
    return new Promise((answer, fail) => {
      this.#waiting = { answer, fail };
      if (request.leaving) fail(new Error("left"));
      signal?.addEventListener("abort", () => fail(new Error("aborted")));
      this.#arrived?.();
    });
  }

  /** Answers the request in flight, and returns once the next one is in flight: then the answer is applied. */
  async feed(answer: MessageInitShape<typeof WatchChangesResponseSchema>): Promise<void> {
    if (this.#waiting === undefined) throw new Error("nothing is in flight");
    const { sequence } = this.watched.at(-1)!;
    const next = new Promise<void>((resolve) => (this.#arrived = resolve));
    this.#waiting.answer(create(WatchChangesResponseSchema, { sequence, epoch: EPOCH, ...answer }));
    await next;
  }

  close(): void {
    this.closed = true;
  }
}

function checker(server: Server, more: Partial<CheckerOptions> = {}): Checker {
  return new Checker({ validator: server, ...more });
}

const LEASE = {
  lease: { seconds: 1n, nanos: 300_000_000 },
  timeLower: { seconds: 1_000n },
  timeUpper: { seconds: 1_000n },
};
const allow = (more: Answer["entry"] = undefined): Answer => ({
  verdict: Verdict.ALLOW,
  token: LIVE,
  entry: more ?? { epoch: EPOCH, position: 5n, tags: [7n] },
});

test.each([
  [Verdict.INVALID_TOKEN, "INVALID_TOKEN"],
  [Verdict.INSUFFICIENT_SCOPE, "INSUFFICIENT_SCOPE"],
  [Verdict.WRONG_AUDIENCE, "WRONG_AUDIENCE"],
  [Verdict.ADDRESS_NOT_ALLOWED, "ADDRESS_NOT_ALLOWED"],
  [Verdict.RATE_LIMITED, "RATE_LIMITED"],
  [Verdict.WRONG_TENANT, "WRONG_TENANT"],
  [Verdict.UNDETERMINED, "UNDETERMINED"],
  [Verdict.UNSPECIFIED, "UNDETERMINED"],
  [99 as Verdict, "UNDETERMINED"],
] as const)("verdict %i of the server refuses as %s", async (verdict, expected) => {
  const server = new Server();
  server.answers = [{ verdict, token: LIVE }];
  const check = await checker(server).check(TOKEN);
  expect(check.verdict).toBe(expected);
  expect(check.identity).toBeUndefined();
});

test("an ALLOW carries the identity; one without a token is no ALLOW", async () => {
  const server = new Server();
  server.answers = [{ verdict: Verdict.ALLOW, token: LIVE }, { verdict: Verdict.ALLOW }];
  expect((await checker(server).check(TOKEN)).identity).toMatchObject({ principal: "user:ann", tokenId: "tok_1" });
  expect((await checker(server).check(TOKEN)).verdict).toBe("UNDETERMINED");
});

test("no credential and a string that cannot be a token are refused without a call", async () => {
  const server = new Server();
  expect((await checker(server).check(undefined)).verdict).toBe("NO_CREDENTIAL");
  expect((await checker(server).check("sp_pat_x")).verdict).toBe("INVALID_TOKEN");
  expect(server.asked).toEqual([]);
});

test("the requirement and the origin reach the server", async () => {
  const server = new Server();
  await checker(server).check(TOKEN, { scopes: ["a"], audience: "b" }, { clientAddress: "10.0.0.1" });
  expect(server.asked[0]).toMatchObject({ requiredScopes: ["a"], audience: "b", wantEntry: false });
  expect(server.asked[0]?.context).toMatchObject({ clientAddress: "10.0.0.1" });
});

test("a call that was not sent is repeated once, within the time of the check; a sent one is not", async () => {
  const server = new Server();
  let now = 0;
  const mono = () => (now += 10);
  server.answers = [new NotSent(), allow()];
  expect((await checker(server, { mono }).check(TOKEN)).verdict).toBe("ALLOW");
  expect(server.timeouts[0]).toBeLessThanOrEqual(300);
  expect(server.timeouts[1]).toBeLessThan(server.timeouts[0]!);
  server.answers = [new NotSent(), new NotSent(), allow()];
  expect((await checker(server).check(TOKEN)).verdict).toBe("UNDETERMINED");
  server.answers = [new Error("reset"), allow()];
  expect((await checker(server).check(TOKEN)).verdict).toBe("UNDETERMINED");
  expect(server.asked).toHaveLength(5);
});

/* The vectors that the client of every language must satisfy. */
interface TenantCase {
  readonly name: string;
  readonly tenant: string;
  readonly answer: {
    readonly verdict: keyof typeof Verdict;
    readonly token: { readonly tenant: string; readonly tenants: string[] } | null;
  };
  readonly verdict: string;
  readonly entry: boolean;
  readonly calls: number;
}
const { cases: TENANTS } = JSON.parse(readFileSync(join(import.meta.dirname, "../../vectors/tenant.json"), "utf8")) as {
  cases: TenantCase[];
};
test.each(TENANTS)("tenant: $name", async ({ tenant, answer, verdict, entry, calls }) => {
  const server = new Server();
  const checked = checker(server, { cache: "feed" });
  await server.feed({ ...LEASE, position: 5n, floor: 5n });
  const said: Answer = {
    verdict: Verdict[answer.verdict],
    entry: { epoch: EPOCH, position: 5n, tags: [7n] },
    ...(answer.token !== null && { token: { ...LIVE, ...answer.token } }),
  };
  server.answers = [said, said];
  for (let time = 0; time < 2; time++) {
    const check = await checked.check(TOKEN, { tenant });
    expect(check.verdict).toBe(verdict);
    expect(check.identity !== undefined).toBe(verdict === "ALLOW");
    expect(check.entry !== undefined).toBe(entry);
  }
  expect(server.asked.map((request) => request.tenant)).toEqual(Array(calls).fill(tenant));
  await checked.close();
});

test("hooks see verdict and tier, never the string, and cannot fail a check", async () => {
  const server = new Server();
  server.answers = [allow()];
  const seen: unknown[][] = [];
  const hooks: Hooks = {
    checked: (...args) => {
      seen.push(args);
      throw new Error("a broken hook");
    },
  };
  const checked = checker(server, { hooks });
  expect((await checked.check(TOKEN)).verdict).toBe("ALLOW");
  await checked.check("sp_x");
  expect(seen.map(([verdict, tier]) => [verdict, tier])).toEqual([
    ["ALLOW", "server"],
    ["INVALID_TOKEN", "offline"],
  ]);
  expect(JSON.stringify(seen)).not.toContain(TOKEN);
});

test("with a feed, a check is answered from the cache until a change reaches its token", async () => {
  const server = new Server();
  const tiers: string[] = [];
  const checked = checker(server, { cache: "feed", hooks: { checked: (_, tier) => tiers.push(tier) } });
  await server.feed({ ...LEASE, position: 5n, floor: 5n });
  server.answers = [allow(), { verdict: Verdict.INVALID_TOKEN, entry: { epoch: EPOCH, position: 6n } }];
  expect((await checked.check(TOKEN)).verdict).toBe("ALLOW");
  expect(server.asked[0]?.wantEntry).toBe(true);
  expect((await checked.check(TOKEN, { scopes: ["orders.read"] })).verdict).toBe("ALLOW");
  expect((await checked.check(TOKEN, { scopes: ["stock.read"] })).verdict).toBe("INSUFFICIENT_SCOPE");
  await server.feed({ ...LEASE, position: 6n, changed: [7n] });
  expect((await checked.check(TOKEN)).verdict).toBe("INVALID_TOKEN");
  expect((await checked.check(TOKEN)).verdict).toBe("INVALID_TOKEN");
  expect(tiers).toEqual(["server", "cache", "cache", "server", "cache"]);
  await checked.close();
});

test("a check that names a tenant, and an answer without an entry or a tag, are never answered from the cache", async () => {
  const server = new Server();
  const checked = checker(server, { cache: "feed" });
  await server.feed({ ...LEASE, position: 5n, floor: 5n });
  server.answers = [allow(), allow(), { verdict: Verdict.ALLOW, token: LIVE }];
  await checked.check(TOKEN);
  await checked.check(TOKEN, { tenant: "default" });
  expect(server.asked).toHaveLength(2);
  await checked.check("another");
  await checked.check("another");
  expect(server.asked).toHaveLength(4);
  server.answers = [allow({ epoch: EPOCH, position: 5n, tags: [] })];
  await checked.check("a third");
  await checked.check("a third");
  expect(server.asked).toHaveLength(6);
  await checked.close();
});

test("the feed acknowledges what is applied, in the next request, and says when it leaves", async () => {
  const server = new Server();
  const states: string[] = [];
  const checked = checker(server, { cache: "feed", hooks: { feed: (state) => states.push(state) } });
  expect(server.watched[0]).toMatchObject({ epoch: new Uint8Array(), position: 0n, instanceId: "" });
  await server.feed({ ...LEASE, position: 5n, floor: 5n, instanceId: "i1" });
  expect(server.watched[1]).toMatchObject({ epoch: EPOCH, position: 5n, instanceId: "i1", leaving: false });
  expect(server.watched[1]?.cacheId).toBe(server.watched[0]?.cacheId);
  expect(checked.cache?.lease).toBeGreaterThan(0);
  await checked.close();
  expect(checked.cache?.lease).toBe(0);
  expect(server.watched.at(-1)).toMatchObject({ leaving: true, position: 5n });
  expect(states).toEqual(["following", "left"]);
  expect(server.closed).toBe(true);
});

test("an answer to another request is ignored", async () => {
  const server = new Server();
  const checked = checker(server, { cache: "feed" });
  await server.feed({ ...LEASE, position: 5n, sequence: 77n });
  expect(checked.cache?.lease).toBe(0);
  expect(checked.cache?.version).toEqual({ epoch: "", position: -1n });
  await checked.close();
});

test.each([
  [["Bearer abc"], "abc"],
  [["bearer  abc "], "abc"],
  [["Basic abc"], undefined],
  [["Bearer"], undefined],
  [["Bearer a b"], undefined],
  [["Bearer a", "Bearer b"], undefined],
  [[], undefined],
])("the bearer of %j", (values, expected) => {
  expect(bearerOf(values)).toBe(expected);
});
