import { mkdtempSync, rmSync } from "node:fs";
import { Agent, request as httpRequest } from "node:http";
import { connect as netConnect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { type ChannelCredentials, Client, credentials } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus as Status } from "../../src/gen/grpc/health/v1/health_pb.ts";
import {
  TokenValidator,
  ValidateTokenRequestSchema,
  ValidateTokenResponseSchema,
  Verdict,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { framed, type Poured, pourUntilGoaway } from "../data-plane/data-listener.ts";
import { certify, type Identity, writeFiles } from "../listen/certificates.ts";
import { FREE_PORTS } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";

const VALIDATE = "/sallyport.v1.TokenValidator/ValidateToken";

/** This instance stays; the others share its database and are drained one by one. */
let stays: TestSallyport;
let question: Uint8Array;
let tokenString: string;
let folder: string;
let ca: Identity;
let tls: object;
beforeAll(async () => {
  stays = await TestSallyport.start();
  ({ tokenString } = await stays.createToken());
  question = toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString }));
  folder = mkdtempSync(join(tmpdir(), "sallyport-drain-"));
  ca = certify("ca", []);
  const files = writeFiles(folder, certify("server", [{ dns: "localhost" }, { ip: "127.0.0.1" }], ca));
  tls = { cert_file: files.certFile, key_file: files.keyFile };
});
afterAll(async () => {
  await stays?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const another = (data: object = {}): Promise<TestSallyport> =>
  TestSallyport.start({
    database: stays.database,
    keyring: stays.keyring,
    config: { listeners: { ...FREE_PORTS, data: { bind: "127.0.0.1:0", ...data } } },
  });
const portOf = (url: string): number => Number(new URL(url).port);

/** Sends the signal and returns the exit code and the time that the stop took. */
async function end(program: TestSallyport["program"], signal: NodeJS.Signals = "SIGTERM") {
  const from = performance.now();
  program.kill(signal);
  const code = await program.exited;
  return { code, ms: performance.now() - from };
}

/** Sends one call after the other until the end. */
interface Load {
  answered: number;
  readonly failed: unknown[];
  stop(): Promise<void>;
}

function load(width: number, call: () => Promise<boolean>): Load {
  let over = false;
  const failed: unknown[] = [];
  const state: Load = {
    answered: 0,
    failed,
    async stop() {
      over = true;
      await loops;
    },
  };
  const loops = Promise.all(
    Array.from({ length: width }, async () => {
      while (!over) {
        try {
          if (await call()) state.answered++;
          else failed.push("another answer");
        } catch (error) {
          failed.push(error);
        }
        await new Promise(setImmediate); // a client that is refused at once must not starve the others
      }
    }),
  );
  return state;
}

/** Calls of a stock gRPC client over both instances, spread as a balancer would. */
function grpcLoad(urls: readonly string[], creds: ChannelCredentials, width: number): Load & { close(): void } {
  const config = JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] });
  const target = `ipv4:${urls.map((url) => `127.0.0.1:${portOf(url)}`).join(",")}`;
  const client = new Client(target, creds, {
    "grpc.service_config": config,
    "grpc.ssl_target_name_override": "localhost",
    "grpc.use_local_subchannel_pool": 1,
  });
  const call = () =>
    new Promise<boolean>((resolve, reject) => {
      const deadline = { deadline: Date.now() + 10_000 };
      client.makeUnaryRequest(
        VALIDATE,
        (bytes: Buffer) => bytes,
        (bytes: Buffer) => fromBinary(ValidateTokenResponseSchema, bytes),
        Buffer.from(question),
        deadline,
        (error, answer) => (error ? reject(error) : resolve(answer?.verdict === Verdict.ALLOW)),
      );
    });
  return Object.assign(load(width, call), { close: () => client.close() });
}

/**
 * Calls over kept connections to the first instance. If it refuses a connection, nothing was sent, and the second one
 * is asked.
 */
function http1Load(urls: readonly [string, string], width: number): Load & { close(): void } {
  const agent = new Agent({ keepAlive: true, maxSockets: width });
  const ask = (url: string): Promise<boolean> =>
    new Promise((resolve, reject) => {
      const headers = { "content-type": "application/proto", "content-length": String(question.length) };
      const request = httpRequest(`${url}${VALIDATE}`, { method: "POST", agent, headers }, (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (bytes: Buffer) => chunks.push(bytes));
        response.on("error", reject);
        response.on("end", () => {
          // A call that a busy machine sheds is not lost: a client asks again.
          if (response.statusCode === 429) return void ask(url).then(resolve, reject);
          if (response.statusCode !== 200) return reject(new Error(`answered ${response.statusCode}`));
          const { verdict } = fromBinary(ValidateTokenResponseSchema, Buffer.concat(chunks));
          resolve(verdict === Verdict.ALLOW);
        });
      });
      request.on("error", reject);
      request.end(question);
    });
  const call = async (): Promise<boolean> => {
    try {
      return await ask(urls[0]);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ECONNREFUSED") throw error;
      return ask(urls[1]);
    }
  };
  return Object.assign(load(width, call), { close: () => agent.destroy() });
}

function rawLoad(connections: number, dial: () => Socket): Promise<Poured[]> {
  return Promise.all(
    Array.from({ length: connections }, () => pourUntilGoaway(dial(), VALIDATE, 16, framed(question))),
  );
}

/** Watches health at the ops listener and records each report with its time, until the stream ends. */
function watch(url: string) {
  const seen: { status: Status; at: number }[] = [];
  const client = createClient(Health, createGrpcTransport({ baseUrl: url }));
  const first = Promise.withResolvers<void>();
  const ended = (async () => {
    for await (const { status } of client.watch({ service: "sallyport.v1.TokenValidator" })) {
      seen.push({ status, at: performance.now() });
      first.resolve();
    }
  })();
  return { seen, first: first.promise, ended };
}

async function enough(...loads: readonly Load[]): Promise<void> {
  while (loads.some(({ answered }) => answered < 200)) await new Promise(setImmediate);
}

describe("SIGTERM under load", () => {
  test.each([
    ["cleartext", "builtin"],
    ["TLS", "builtin"],
    ["cleartext", "node"],
  ] as const)(
    "loses no call, says NOT_SERVING first, and ends with 0 in time (%s, %s)",
    // Repeated if this client itself stalled for longer than a GOAWAY waits for slow readers.
    { timeout: 60_000, retry: 2 },
    async (transport, http2) => {
      const secure = transport === "TLS";
      const leaves = await another({ http2, ...(secure ? { tls } : {}) });
      const other = secure ? await another({ tls }) : stays;
      const creds = secure ? credentials.createSsl(Buffer.from(ca.certPem)) : credentials.createInsecure();
      const urls = [leaves.listeners.data, other.listeners.data] as [string, string];
      const loads = [grpcLoad(urls, creds, 8), ...(secure ? [] : [http1Load(urls, 8)])];
      const port = portOf(leaves.listeners.data);
      const poured =
        http2 === "builtin"
          ? rawLoad(secure ? 8 : 16, () =>
              secure
                ? tlsConnect({ port, host: "localhost", ca: ca.certPem, ALPNProtocols: ["h2"] })
                : netConnect(port, "127.0.0.1"),
            )
          : Promise.resolve([]);
      const watching = watch(leaves.listeners.ops);
      await Promise.all([watching.first, enough(...loads)]);
      await new Promise((resolve) => setTimeout(resolve, 500)); // load in full flow
      const { code, ms } = await end(leaves.program);
      const raw = await poured;
      await watching.ended.catch(() => {});
      for (const one of loads) {
        const { answered } = one;
        while (one.answered < answered + 20) await new Promise(setImmediate); // sent by the instance that stays
        await one.stop();
        one.close();
      }
      expect(loads.flatMap(({ failed }) => failed.map(String))).toEqual([]);
      expect(raw.map(({ lost }) => lost)).toEqual(raw.map(() => 0));
      expect(code).toBe(0);
      expect(ms).toBeLessThan(10_000);
      const statuses = watching.seen.map(({ status }) => status);
      expect(statuses).toEqual([Status.SERVING, Status.NOT_SERVING]);
      for (const { answered, goawayAt } of raw) {
        expect(answered).toBeGreaterThan(20);
        expect(goawayAt - watching.seen[1]!.at).toBeGreaterThan(500);
      }
      if (secure) await other.stop();
      await leaves.dispose();
    },
  );
});

describe("a drain", () => {
  test("is not delayed by clients that do nothing, and deletes the instance's row", async () => {
    const leaves = await another();
    const rows = async () => Number((await stays.sql("select count(*) from sallyport.validators"))[0]!["count"]);
    const before = await rows();
    const idle: Socket[] = [];
    for (const url of Object.values(leaves.listeners)) {
      for (const bytes of ["", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"]) {
        const socket = netConnect(portOf(url), "127.0.0.1");
        socket.on("error", () => {}).resume();
        await new Promise((resolve) => socket.once("connect", resolve));
        socket.write(bytes);
        idle.push(socket);
      }
    }
    const agent = new Agent({ keepAlive: true });
    for (const url of [leaves.listeners.data, leaves.listeners.admin, leaves.listeners.ops])
      await new Promise((resolve) =>
        httpRequest(url, { agent }, (response) => response.resume().once("end", resolve)).end(),
      );
    const channel = createClient(TokenValidator, createGrpcTransport({ baseUrl: leaves.listeners.data }));
    await channel.validateToken({ tokenString });
    const { code, ms } = await end(leaves.program);
    expect(code).toBe(0);
    expect(ms).toBeLessThan(6_000);
    expect(await rows()).toBe(before - 1);
    agent.destroy();
    for (const socket of idle) socket.destroy();
    await leaves.dispose();
  }, 30_000);

  test("gives pollers of /readyz time to notice it, and serves everything meanwhile", async () => {
    const leaves = await another();
    const ready = async () => (await fetch(`${leaves.listeners.ops}/readyz`)).status;
    expect(await ready()).toBe(200);
    const ended = end(leaves.program);
    await expect.poll(ready, { interval: 20 }).toBe(503);
    const from = performance.now();
    let served = 0;
    while (performance.now() - from < 2_000) {
      const answer = await leaves.post("data", VALIDATE, { tokenString }, { connection: "close" });
      expect(await answer.json()).toMatchObject({ verdict: "VERDICT_ALLOW" });
      served++;
    }
    expect(served).toBeGreaterThan(10);
    expect(await ready()).toBe(503);
    const { code, ms } = await ended;
    expect(code).toBe(0);
    expect(ms).toBeGreaterThan(4_500);
    expect(ms).toBeLessThan(10_000);
    await leaves.dispose();
  }, 30_000);

  test("by Ctrl-C takes a moment, even with pollers", async () => {
    const leaves = await another();
    await fetch(`${leaves.listeners.ops}/readyz`, { headers: { connection: "close" } });
    const { code, ms } = await end(leaves.program, "SIGINT");
    expect(code).toBe(0);
    expect(ms).toBeLessThan(2_000);
    await leaves.dispose();
  });

  test("ends at once at a second signal", async () => {
    const leaves = await another();
    const ready = async () => (await fetch(`${leaves.listeners.ops}/readyz`)).status;
    expect(await ready()).toBe(200);
    leaves.program.kill("SIGTERM");
    await expect.poll(ready, { interval: 20 }).toBe(503);
    // Within a second it counts as a duplicate of the first signal, after it as a second one.
    leaves.program.kill("SIGTERM");
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    expect(await ready()).toBe(503);
    const { code, ms } = await end(leaves.program);
    expect(code).toBe(1);
    expect(ms).toBeLessThan(1_000);
    await leaves.dispose();
  });
});
