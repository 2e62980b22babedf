import { Client, credentials, type Deadline, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { afterAll, beforeAll, expect, test } from "vitest";
import { grpcMessage, grpcStatus } from "../../src/http2/unary/reply.ts";
import { type Fixture, route, start } from "./fixture.ts";

let fixture: Fixture;
let client: Client;
const aborted = Promise.withResolvers<void>();

beforeAll(async () => {
  fixture = await start({
    routes: {
      "/t/Later": route(async (bytes, call) =>
        grpcMessage(await Promise.resolve(call.copy(bytes)), [["x-trail", call.metadata("x-in") ?? ""]]),
      ),
      "/t/Fails": route(() => grpcStatus(status.NOT_FOUND, "no such thing: ü%")),
      "/t/Hangs": route((_bytes, call) => {
        call.signal.addEventListener("abort", () => aborted.resolve());
        return new Promise<never>(() => {});
      }),
    },
  });
  client = new Client(`127.0.0.1:${fixture.port}`, credentials.createInsecure());
});
afterAll(async () => {
  client.close();
  await fixture.stop();
});

const same = (bytes: Buffer): Buffer => bytes;
const unary = (path: string, body: Buffer, metadata = new Metadata(), deadline?: Deadline): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, same, same, body, metadata, { deadline }, (error, reply) =>
      error ? reject(error) : resolve(reply!),
    );
  });
const failure = (path: string, body: Buffer, deadline?: Deadline): Promise<ServiceError> =>
  unary(path, body, new Metadata(), deadline).then(
    () => {
      throw new Error("no error");
    },
    (error: ServiceError) => error,
  );

test("grpc-js: 2,000 calls at once, of every size up to the limit, each get their own answer", async () => {
  const bodies = Array.from({ length: 2_000 }, (_, n) => Buffer.alloc(n % 50 === 0 ? (n * 32) % 65_537 : n % 97, n));
  const answers = await Promise.all(bodies.map((body, n) => unary(n % 2 === 0 ? "/t/Echo" : "/t/Later", body)));
  expect(answers.every((answer, n) => answer.equals(bodies[n]!))).toBe(true);
});

test("grpc-js: a message of exactly the limit is taken, one octet more is RESOURCE_EXHAUSTED", async () => {
  expect(await unary("/t/Echo", Buffer.alloc(65_536))).toHaveLength(65_536);
  expect((await failure("/t/Echo", Buffer.alloc(65_537))).code).toBe(status.RESOURCE_EXHAUSTED);
});

test("grpc-js: a status comes with its code and message", async () => {
  expect(await failure("/t/Fails", Buffer.alloc(0))).toMatchObject({
    code: status.NOT_FOUND,
    details: "no such thing: ü%",
  });
  expect((await failure("/t/None", Buffer.alloc(0))).code).toBe(status.UNIMPLEMENTED);
});

test("grpc-js: a call that is cancelled aborts its handler", async () => {
  const call = client.makeUnaryRequest("/t/Hangs", same, same, Buffer.alloc(0), () => {});
  await unary("/t/Echo", Buffer.alloc(0));
  call.cancel();
  await aborted.promise;
});

test("grpc-js: a deadline is DEADLINE_EXCEEDED", async () => {
  expect((await failure("/t/Hangs", Buffer.alloc(0), Date.now() + 40)).code).toBe(status.DEADLINE_EXCEEDED);
});
