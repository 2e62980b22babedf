import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { describe, expect, test } from "vitest";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { rpcRoutes } from "../../src/listen/rpc-routes.ts";
import { ALL_METHODS, methodOf } from "../../src/rpc/methods.ts";

const GENERATED = join(import.meta.dirname, "../../src/gen");

/** Every service that `npm run generate` made. */
async function services(): Promise<DescService[]> {
  const files = readdirSync(GENERATED, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith("_pb.ts"));
  const modules = await Promise.all(files.map((file) => import(join(GENERATED, file)) as Promise<object>));
  return modules.flatMap((module) =>
    Object.values(module).filter((one): one is DescService => (one as DescService)?.kind === "service"),
  );
}

/** What a new service would be before its row is written. */
const unlisted = (method: DescMethod): DescMethod =>
  Object.assign(Object.create(Object.getPrototypeOf(method)), method);

describe("the table of methods", () => {
  test("every method of every service has a row, and every row but those of endpoints is a method", async () => {
    const methods = (await services()).flatMap((service) => service.methods);
    expect(methods.length).toBeGreaterThan(20);
    const names = methods.map((method) => methodOf(method).name);
    const endpoints = ["/v1/revoke", "/v1/token", "/v1/introspect", "/v1/check/"];
    const rows = ALL_METHODS.filter(({ path }) => !endpoints.includes(path)).map(({ name }) => name);
    expect(rows.sort()).toEqual(names.sort());
    expect(methods.map((method) => methodOf(method).path).sort()).toEqual(names.map((name) => `/${name}`).sort());
  });

  test("a listener with a method without a row does not start", () => {
    const method = unlisted(TokenAdmin.method.getToken);
    const without = { ...TokenAdmin, methods: [...TokenAdmin.methods.slice(1), method] } as DescService;
    const routes = (service: DescService) => () =>
      rpcRoutes({ grpcWeb: false, routes: (router) => void router.service(service, {}) });
    expect(routes(without)).toThrow("sallyport.v1.TokenAdmin/GetToken has no row in rpc/methods.ts");
    expect(routes(TokenAdmin)).not.toThrow();
  });

  test("Connect serves by GET, which proxies repeat and cache, only what never changes anything", async () => {
    for (const method of (await services()).flatMap((service) => service.methods)) {
      const { name, listener, repeat, audit } = methodOf(method);
      const byGet = method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
      if (listener === "admin" && method.methodKind === "unary") expect(byGet, name).toBe(repeat === "read");
      if (byGet) expect(repeat, name).toBe("read");
      expect(audit.length === 0, name).toBe(repeat === "read");
    }
  });

  test("exactly the methods whose request has a request_id are repeated by it", async () => {
    for (const method of (await services()).flatMap((service) => service.methods)) {
      const hasId = method.input.fields.some(({ name }) => name === "request_id");
      expect(methodOf(method).repeat === "request_id", method.name).toBe(hasId);
    }
  });

  test("methods that take authority away use the reserved slots; reads and creations do not", () => {
    const taking = ALL_METHODS.filter(({ admission }) => admission === "revoke").map(({ path }) => path);
    const changes = ALL_METHODS.filter(({ repeat }) => repeat === "same").map(({ path }) => path);
    expect(taking).toEqual(changes);
    expect(taking).toContain("/v1/revoke");
  });

  test("every call without a stream has a deadline", () => {
    const endless = ALL_METHODS.filter(({ limits }) => limits.deadlineMs === 0).map(({ name }) => name.split("/")[1]);
    expect(endless).toEqual(["Watch", "ServerReflectionInfo", "ServerReflectionInfo"]);
  });
});
