import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { connect as netConnect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { create, type DescMethod, type DescService, fromBinary, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus as Status } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { AuditLog } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { PrincipalAdmin } from "../../src/gen/sallyport/v1/principal_admin_pb.ts";
import { ServerInfo } from "../../src/gen/sallyport/v1/server_info_pb.ts";
import { TenantAdmin } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import {
  TokenValidator,
  ValidateTokenRequestSchema,
  ValidateTokenResponseSchema,
  Verdict,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { framed, http2Asker, TYPES } from "../data-plane/data-listener.ts";
import { FREE_PORTS } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";

const VALIDATE = "/sallyport.v1.TokenValidator/ValidateToken";
const ADMIN: readonly DescService[] = [TokenAdmin, PrincipalAdmin, TenantAdmin, AuditLog, ServerInfo];

let sallyport: TestSallyport;
let tokenString: string;
beforeAll(async () => {
  sallyport = await TestSallyport.start();
  ({ tokenString } = await sallyport.createToken());
});
afterAll(() => sallyport?.stop());

/** A Connect GET as a browser sends it. Repeats while the machine is too busy, as the answer asks. */
async function get(
  listener: "data" | "admin",
  service: DescService,
  method: DescMethod,
  message: object = {},
): Promise<Response> {
  const query = new URLSearchParams({ connect: "v1", encoding: "json", message: JSON.stringify(message) });
  for (;;) {
    const answer = await fetch(`${sallyport.listeners[listener]}/${service.typeName}/${method.name}?${query}`, {
      headers: { authorization: `Bearer ${sallyport.adminToken}` },
    });
    if (answer.status !== 429) return answer;
    await answer.body?.cancel();
    await delay(100);
  }
}

describe("Connect GET", () => {
  test("is answered on Get and List methods of the admin listener, and refused on every other method of every listener", async () => {
    for (const service of ADMIN)
      for (const method of service.methods) {
        const { status } = await get("admin", service, method);
        const name = `${service.typeName}/${method.name}`;
        if (/^List|^GetServerInfo$/.test(method.name)) expect(status, name).toBe(200);
        else if (/^Get/.test(method.name))
          expect([400, 404], name).toContain(status); // it was read, because the name is missing
        else expect(status, name).toBe(405);
      }
    for (const method of TokenValidator.methods) {
      const refused = await get("data", TokenValidator, method, { tokenString });
      expect([404, 405]).toContain(refused.status);
      expect(await refused.text()).not.toContain(tokenString);
    }
  });

  test("gives the answer of a POST", async () => {
    const bearer = { authorization: `Bearer ${sallyport.adminToken}` };
    const list = TokenAdmin.method.listTokens;
    const posted = await sallyport.post(
      "admin",
      "/sallyport.v1.TokenAdmin/ListTokens",
      { principal: "user:ann" },
      bearer,
    );
    const got = await get("admin", TokenAdmin, list, { principal: "user:ann" });
    const body = await got.json();
    expect(body).toMatchObject({ tokens: [{ principal: "user:ann" }] });
    expect(body).toEqual(await posted.json());
  });
});

describe("gRPC-Web", () => {
  const client = (listener: "data" | "admin" | "ops", service: typeof Health | typeof TokenAdmin) =>
    createClient(
      service as typeof Health,
      createGrpcWebTransport({ baseUrl: sallyport.listeners[listener], httpVersion: "1.1" }),
    );

  test("is served at the admin listener, errors included", async () => {
    const web = sallyport.as(sallyport.adminToken, "grpc-web");
    expect((await web.tokens.listTokens({ principal: "user:ann" })).tokens.length).toBeGreaterThan(0);
    await expect(web.tokens.getToken({ id: "tok_0000000000000000000000" })).rejects.toThrow("not_found");
    await expect(sallyport.as(undefined, "grpc-web").tokens.listTokens({})).rejects.toThrow("unauthenticated");
  });

  test("is not served at the other listeners", async () => {
    for (const listener of ["data", "ops"] as const) await expect(client(listener, Health).check({})).rejects.toThrow();
    expect((await client("admin", Health).check({})).status).toBe(Status.SERVING);
  });
});

describe("the services of each listener", () => {
  test("/openapi.json is at the admin listener, by GET and HEAD, and nowhere else", async () => {
    const at = (listener: "data" | "admin" | "ops", method = "GET") =>
      fetch(`${sallyport.listeners[listener]}/openapi.json`, { method });
    const page = await at("admin");
    expect([page.status, page.headers.get("content-type")]).toEqual([200, "application/json"]);
    const document = (await page.json()) as { openapi: string; paths: object };
    expect(document.openapi).toMatch(/^3\./);
    expect(Object.keys(document.paths)).toContain("/sallyport.v1.TokenAdmin/CreateToken");
    expect((await at("admin", "HEAD")).status).toBe(200);
    expect((await at("admin", "POST")).status).toBe(405);
    expect((await at("data")).status).toBe(404);
    expect((await at("ops")).status).toBe(404);
  });

  test("every listener takes HTTP/1.1 and HTTP/2 on one port", async () => {
    for (const listener of ["data", "admin", "ops"] as const)
      for (const httpVersion of ["1.1", "2"] as const) {
        const transport = createConnectTransport({ baseUrl: sallyport.listeners[listener], httpVersion });
        expect((await createClient(Health, transport).check({})).status).toBe(Status.SERVING);
      }
  });

  test("health is watched at the admin and ops listeners, and only checked at the data listener", async () => {
    const health = (listener: "data" | "admin" | "ops") =>
      createClient(Health, createGrpcTransport({ baseUrl: sallyport.listeners[listener] }));
    for (const listener of ["admin", "ops"] as const)
      for await (const { status } of health(listener).watch({})) {
        expect(status).toBe(Status.SERVING);
        break;
      }
    const refused = (async () => {
      for await (const _ of health("data").watch({})) throw new Error("answered");
    })();
    await expect(refused).rejects.toThrow("unimplemented");
  });

  test("no listener answers requests that belong to another", async () => {
    const headers = { authorization: `Bearer ${sallyport.adminToken}` };
    expect((await sallyport.post("data", "/sallyport.v1.TokenAdmin/ListTokens", {}, headers)).status).toBe(404);
    expect((await sallyport.post("admin", VALIDATE, { tokenString }, headers)).status).toBe(404);
    expect((await sallyport.post("ops", VALIDATE, { tokenString }, headers)).status).toBe(404);
    for (const listener of ["data", "admin"] as const)
      for (const path of ["/metrics", "/readyz", "/healthz"])
        expect((await fetch(`${sallyport.listeners[listener]}${path}`)).status).toBe(404);
  });
});

describe("unix sockets", () => {
  test.each(["builtin", "node"])(
    "are served with their mode, to both protocols, and removed at the end (%s)",
    async (http2) => {
      const folder = mkdtempSync(join(tmpdir(), "sallyport-unix-"));
      const path = (listener: string) => join(folder, `${listener}.sock`);
      const unix = await TestSallyport.start({
        database: sallyport.database,
        keyring: sallyport.keyring,
        config: {
          listeners: {
            data: { bind: `unix:${path("data")}`, unix_mode: "0660", http2 },
            admin: { bind: `unix:${path("admin")}` },
            ops: { bind: `unix:${path("ops")}`, unix_mode: "666" },
          },
        },
      });
      const modes = ["data", "admin", "ops"].map((listener) => (statSync(path(listener)).mode & 0o777).toString(8));
      expect(modes).toEqual(["660", "600", "666"]);

      const asker = http2Asker("http://localhost", { createConnection: () => netConnect(path("data")) });
      const question = toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString }));
      const { body } = await asker.ask(VALIDATE, { "content-type": TYPES.grpc, te: "trailers" }, framed(question));
      expect(fromBinary(ValidateTokenResponseSchema, body.subarray(5)).verdict).toBe(Verdict.ALLOW);
      asker.close();
      expect(await overHttp1(path("data"), VALIDATE, { tokenString })).toMatchObject({ verdict: "VERDICT_ALLOW" });
      const listed = await overHttp1(
        path("admin"),
        "/sallyport.v1.TokenAdmin/ListTokens",
        { principal: "user:ann" },
        sallyport.adminToken,
      );
      expect(listed).toMatchObject({ tokens: [{ principal: "user:ann" }] });

      expect(await unix.halt()).toBe(0);
      expect(["data", "admin", "ops"].filter((listener) => existsSync(path(listener)))).toEqual([]);
      await unix.dispose();
      rmSync(folder, { recursive: true });
    },
  );

  test("a socket file that a killed program left is replaced, and one in use is not", async () => {
    const folder = mkdtempSync(join(tmpdir(), "sallyport-unix-"));
    const path = join(folder, "data.sock");
    const start = () =>
      TestSallyport.start({
        database: sallyport.database,
        keyring: sallyport.keyring,
        config: { listeners: { ...FREE_PORTS, data: { bind: `unix:${path}` } } },
      });
    const killed = await start();
    await expect(start()).rejects.toThrow(/ended with [1-9]/);
    expect(await overHttp1(path, VALIDATE, { tokenString })).toMatchObject({ verdict: "VERDICT_ALLOW" });
    killed.program.kill("SIGKILL");
    await killed.program.exited;
    expect(existsSync(path)).toBe(true);
    const next = await start();
    expect(await overHttp1(path, VALIDATE, { tokenString })).toMatchObject({ verdict: "VERDICT_ALLOW" });
    await next.stop();
    await killed.dispose();
    rmSync(folder, { recursive: true });
  });
});

test("the data listener has at most the configured number of connections, and closes one more at once", async () => {
  const few = await TestSallyport.start({
    database: sallyport.database,
    keyring: sallyport.keyring,
    config: { listeners: { ...FREE_PORTS, data: { bind: "127.0.0.1:0", max_connections: 16 } } },
  });
  const { hostname: host, port } = new URL(few.listeners.data);
  const sockets = Array.from({ length: 16 }, () => netConnect({ host, port: Number(port) }));
  await Promise.all(sockets.map((socket) => once(socket, "connect")));
  const closed: string[] = [];
  for (const socket of sockets) socket.on("close", () => closed.push("an open socket"));
  const more = netConnect({ host, port: Number(port) }).on("error", () => {});
  await once(more, "close");
  expect(closed).toEqual([]);
  for (const socket of sockets) socket.destroy();
  await few.stop();
});

function overHttp1(socketPath: string, path: string, body: object, bearer?: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", ...(bearer && { authorization: `Bearer ${bearer}` }) };
    const request = httpRequest({ socketPath, path, method: "POST", headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (bytes: Buffer) => chunks.push(bytes));
      response.on("end", () => resolve(JSON.parse(Buffer.concat(chunks).toString())));
    });
    request.on("error", reject);
    request.end(JSON.stringify(body));
  });
}
