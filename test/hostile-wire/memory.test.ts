// Each structure that peers can make grow is filled from outside: the program stays small, and others are answered.
import { readFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect, type Socket } from "node:net";
import { gzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { Keyring } from "../../src/domain/keyring.ts";
import { mintTokenString } from "../../src/domain/token-string.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { END_HEADERS, frameOf, PING } from "../../src/http2/wire/frame.ts";
import { framed, http2Asker } from "../data-plane/data-listener.ts";
import { grpcHead, headers, literal, RawClient } from "../http2/raw-client.ts";
import { TestSallyport } from "../support/sallyport.ts";

const MiB = 1024 * 1024;
/** What an attack may add to the memory of a program at rest: twice the listener's 32 MiB, and what V8 lets lie. */
const MOST_MORE = 160 * MiB;
/** What is remembered of routes and of rows adds far less; without a bound these tests make it more than 100 MiB. */
const MOST_KEPT = 64 * MiB;

let sallyport: TestSallyport;
let sockets: Socket[] = [];
/** Tokens that no cache knows: so many for each attack. */
const MOST_ASKED = 15;
const fresh: string[] = [];
const agent = new Agent({ keepAlive: true });
beforeAll(async () => {
  // A small cache: what grows besides it is seen.
  sallyport = await TestSallyport.start({ config: { cache: { l1: { bytes: 4 * MiB } } } });
  for (let i = 0; i < 100; i++) fresh.push((await sallyport.createToken({ displayName: `t${i}` })).tokenString);
  expect(await validate(fresh.pop()!)).toBe("VERDICT_ALLOW");
});
afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  agent.destroy();
  await sallyport?.stop();
});

function rss(): number {
  const status = readFileSync(`/proc/${sallyport.program.pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)![1]) * 1024;
}

/** Connect's JSON over HTTP/1.1; the verdict, or the status where there is none. */
function validate(tokenString: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const path = "/sallyport.v1.TokenValidator/ValidateToken";
  const asked = request(sallyport.listeners.data + path, {
    method: "POST",
    agent,
    headers: { "content-type": "application/json" },
  });
  asked.on("error", reject).on("response", (response) => {
    let text = "";
    response.setEncoding("utf8").on("data", (piece: string) => (text += piece));
    response.on("end", () =>
      resolve((JSON.parse(text) as { verdict?: string }).verdict ?? String(response.statusCode)),
    );
  });
  asked.end(JSON.stringify({ tokenString }));
  return promise;
}

/** A connection whose answers are read and dropped; what it sends is sent at the peer's pace. */
async function open(): Promise<(bytes: Uint8Array) => Promise<void>> {
  const socket = connect(Number(new URL(sallyport.listeners.data).port), "127.0.0.1");
  sockets.push(socket);
  socket.on("error", () => {}).resume();
  await new Promise<void>((resolve) => socket.once("connect", () => resolve()));
  return (bytes) =>
    new Promise((resolve) => {
      if (socket.destroyed) return resolve();
      socket.once("close", () => resolve());
      socket.write(bytes, () => resolve());
    });
}

/** Fills, watches the memory meanwhile, and has tokens judged that no cache knows yet. */
async function attack(fill: () => Promise<unknown>): Promise<{ more: number; verdicts: Set<string> }> {
  const before = rss();
  let most = before;
  const watch = setInterval(() => (most = Math.max(most, rss())), 20);
  onTestFinished(() => clearInterval(watch));
  const verdicts = new Set<string>();
  let over = false;
  const filled = fill().finally(() => (over = true));
  for (let asked = 0; asked < MOST_ASKED && (!over || !verdicts.has("VERDICT_ALLOW")); asked++) {
    verdicts.add(await validate(fresh.pop()!));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await filled;
  for (const socket of sockets) socket.destroy();
  sockets = [];
  return { more: most - before, verdicts };
}

/** 429 where the machine is busy with other things: no answer at all, or a refusal, would be a caller lost. */
function expectAnswered(verdicts: ReadonlySet<string>): void {
  expect(verdicts).toContain("VERDICT_ALLOW");
  expect([...verdicts].filter((verdict) => verdict !== "VERDICT_ALLOW" && verdict !== "429")).toEqual([]);
}

/** Runs them all, so many at once. */
async function each(count: number, atOnce: number, one: (i: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await one(next++);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

test("context extensions of 1,000 routes, each of the largest size", async () => {
  const asker = http2Asker(sallyport.listeners.data);
  onTestFinished(() => asker.close());
  const question = (i: number) => {
    const contextExtensions = {
      audience: `https://${i}.${"a".repeat(50_000)}`,
      required_scopes: Array.from({ length: 390 }, (_, n) => `${i}.${n}.`.padEnd(128, "s")).join(" "),
    };
    const peer = { address: { address: { case: "socketAddress" as const, value: { address: "10.0.0.1" } } } };
    const request = { http: { method: "GET", path: "/", headers: { ":path": "/" } } };
    const attributes = { source: peer, request, contextExtensions };
    return framed(toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes })));
  };
  const head = { "content-type": "application/grpc", te: "trailers" };
  let answered = 0;
  const { more, verdicts } = await attack(() =>
    each(1_000, 8, async (i) => {
      const { fields } = await asker.ask("/envoy.service.auth.v3.Authorization/Check", head, question(i));
      if (fields["grpc-status"] === "0") answered++;
    }),
  );
  expectAnswered(verdicts);
  expect(answered).toBeGreaterThan(900);
  expect(more / MiB).toBeLessThan(MOST_KEPT / MiB);
}, 60_000);

test("tokens that all differ, each with as many scopes and audiences as allowed", async () => {
  const COUNT = 2_400;
  const { current, keys } = sallyport.keyring;
  const pepper = new Keyring(current, keys).current;
  const minted = Array.from({ length: COUNT }, () => mintTokenString("sp_bot", pepper));
  // Names of its own, for a test that runs again.
  const principal = `bot:many-${process.hrtime.bigint()}`;
  await sallyport.registered(principal);
  await sallyport.sql(
    `with a as (
       insert into sallyport.audit (tenant, actor, action, target) values ('default', 'test', 'token.create', 'x')
     )
     insert into sallyport.tokens (id, digest, kid, hint, tenant, profile, principal, created_by, family, scopes, audiences)
     select id, digest, $2, 'sp_bot_1', 'default', 'bot', $3, 'test', id,
       array(select n || '.' || s || repeat('s', 110) from generate_series(1, 100) s),
       array(select 'https://' || n || '.' || s || repeat('a', 235) from generate_series(1, 19) s) || '{x}'::text[]
     from unnest($1::bytea[]) with ordinality d (digest, n), lateral (select 'tok_' || left(md5($3 || n), 22) as id) i`,
    [minted.map(({ digest }) => Buffer.from(digest, "latin1")), current, principal],
  );
  let allowed = 0;
  const { more, verdicts } = await attack(() =>
    each(COUNT / 20, 1, async (i) => {
      const requests = minted
        .slice(i * 20, i * 20 + 20)
        .map(({ tokenString }) => ({ tokenString: tokenString.reveal(), audience: "x" }));
      // A slow machine reads some of them too late: it is asked until it has them all.
      let here = 0;
      for (let tries = 0; tries < 20 && here < requests.length; tries++) {
        const { responses } = await sallyport.validator.batchValidateTokens({ requests });
        here = responses.filter(({ verdict }) => verdict === 1).length;
      }
      allowed += here;
    }),
  );
  // Where the machine is slow, those who come first to the database have its time.
  expect(verdicts).toContain("VERDICT_ALLOW");
  expect(allowed).toBeGreaterThan(COUNT * 0.9);
  // Without the bound: 108.
  expect(more / MiB).toBeLessThan(80);
}, 60_000);

test("requests of the admin listener that decode to half a million entries", async () => {
  const { tokenString } = await sallyport.createToken({ displayName: "plain" });
  const session = connectHttp2(sallyport.listeners.admin).on("error", () => {});
  onTestFinished(() => session.destroy());
  const empty = (field: number, bytes: number) => Buffer.alloc(bytes, Buffer.from([(field << 3) | 2, 0]));
  // Groups inside each other, of field 31, which the message does not have.
  const [ids, groups] = [empty(8, MiB), Buffer.alloc(MiB, Buffer.from([0xfb, 0x01]))];
  const ask = (body: Buffer) =>
    new Promise<{ status: number; length: number }>((resolve) => {
      const stream = session.request({
        ":method": "POST",
        ":path": "/sallyport.v1.TokenAdmin/RevokeTokens",
        "content-type": "application/proto",
        "content-encoding": "gzip",
        authorization: `Bearer ${tokenString}`,
      });
      let [status, length] = [0, 0];
      stream.on("response", (head) => (status = Number(head[":status"])));
      stream.on("data", (piece: Buffer) => (length += piece.length));
      stream.on("error", () => {}).on("close", () => resolve({ status, length }));
      stream.end(body);
    });
  const statuses = new Set<number>();
  let longest = 0;
  const { more, verdicts } = await attack(() =>
    each(24, 4, async (i) => {
      const { status, length } = await ask(gzipSync(i % 4 === 0 ? groups : ids));
      statuses.add(status);
      longest = Math.max(longest, length);
    }),
  );
  expectAnswered(verdicts);
  expect([...statuses].filter((status) => status !== 429)).toEqual([400]);
  expect(longest).toBeLessThan(16_384);
  expect(more / MiB).toBeLessThan(MOST_MORE / MiB);
}, 60_000);

test("open HTTP/2 streams with large headers", async () => {
  const block = grpcHead("/sallyport.v1.TokenValidator/ValidateToken", literal("x-large", "x".repeat(15_000)));
  const opened = Array.from({ length: 256 }, (_, i) => headers(2 * i + 1, block, END_HEADERS));
  const ping = frameOf(PING, 0, 0, Buffer.alloc(8));
  const { more, verdicts } = await attack(async () => {
    const port = Number(new URL(sallyport.listeners.data).port);
    const clients = await Promise.all(Array.from({ length: 32 }, () => RawClient.connect(port)));
    sockets.push(...clients.map(({ socket }) => socket));
    for (const client of clients) client.send(...opened, ping);
    // When the PING is answered, all before it has been read.
    await Promise.all(clients.map((client) => client.frame(({ type, flags }) => type === PING && flags === 1)));
  });
  expectAnswered(verdicts);
  expect(more / MiB).toBeLessThan(MOST_MORE / MiB);
});

test("unfinished HTTP/1.1 bodies", async () => {
  const head = [
    "POST /sallyport.v1.TokenValidator/BatchValidateTokens HTTP/1.1",
    "host: x",
    "content-type: application/json",
    "content-length: 1000000",
  ];
  const begun = Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`), Buffer.alloc(999_000, "[")]);
  const { more, verdicts } = await attack(async () => {
    const sends = await Promise.all(Array.from({ length: 256 }, open));
    await Promise.all(sends.map((send) => send(begun)));
  });
  expectAnswered(verdicts);
  expect(more / MiB).toBeLessThan(MOST_MORE / MiB);
});
