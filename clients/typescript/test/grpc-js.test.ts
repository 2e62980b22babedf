import { once } from "node:events";
import { createServer, type Server as NetServer, type Socket } from "node:net";
import {
  Client,
  type ClientDuplexStream,
  type ClientUnaryCall,
  credentials,
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServiceDefinition,
  type StatusObject,
  type sendUnaryData,
} from "@grpc/grpc-js";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { TestSallyport } from "../../../test/support/sallyport.ts";
import { Checker, type CheckerOptions, type Hooks } from "../src/checker.ts";
import { authInterceptor, grpcValidator, identityOf } from "../src/grpc-js.ts";
import type { Requirements } from "../src/requirement.ts";

/* A service on grpc-js behind the interceptor, with the real program. */
const json = {
  requestSerialize: (value: unknown) => Buffer.from(JSON.stringify(value)),
  requestDeserialize: (bytes: Buffer) => JSON.parse(bytes.toString()),
  responseSerialize: (value: unknown) => Buffer.from(JSON.stringify(value)),
  responseDeserialize: (bytes: Buffer) => JSON.parse(bytes.toString()),
};
const method = (name: string, stream: boolean) => ({
  path: `/test.v1.Echo/${name}`,
  requestStream: stream,
  responseStream: stream,
  ...json,
});
const ECHO: ServiceDefinition = {
  Say: method("Say", false),
  Write: method("Write", false),
  Audience: method("Audience", false),
  Tenant: method("Tenant", false),
  Open: method("Open", false),
  Talk: method("Talk", true),
  TenantTalk: method("TenantTalk", true),
};
const REQUIREMENTS: Requirements = {
  "test.v1.Echo/Write": { scopes: ["orders.write"] },
  "test.v1.Echo/Audience": { audience: "orders" },
  "test.v1.Echo/Tenant": { tenant: "another" },
  "test.v1.Echo/TenantTalk": { tenant: "another" },
  "test.v1.Echo/Open": "public",
};

interface Said {
  readonly identity?: string;
  readonly authorization: unknown[];
  readonly text: string;
}

/** An echo server; its handlers tell whom they serve. */
class Echo {
  readonly server: Server;
  readonly checker: Checker;
  readonly talks: ServerDuplexStream<string, string>[] = [];
  client!: Client;

  private constructor(checker: Checker) {
    this.checker = checker;
    this.server = new Server({ interceptors: [authInterceptor({ checker, requirements: REQUIREMENTS })] });
    const say = (call: ServerUnaryCall<string, Said>, answer: sendUnaryData<Said>) => {
      const open = call.getPath().endsWith("/Open");
      const authorization = call.metadata.get("authorization");
      answer(null, { ...(open ? {} : { identity: identityOf(call).principal }), authorization, text: call.request });
    };
    const talk = (call: ServerDuplexStream<string, string>) => {
      this.talks.push(call);
      call.on("data", (text) => call.write(text));
      call.on("end", () => call.end());
    };
    this.server.addService(ECHO, {
      Say: say,
      Write: say,
      Audience: say,
      Tenant: say,
      Open: say,
      Talk: talk,
      TenantTalk: talk,
    });
  }

  static async start(checker: Checker): Promise<Echo> {
    const echo = new Echo(checker);
    const port = await new Promise<number>((resolve, reject) =>
      echo.server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
        error === null ? resolve(port) : reject(error),
      ),
    );
    echo.client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
    return echo;
  }

  /** Calls a unary method. Answers what was said, or the refusal. */
  call(name: string, bearer?: string): Promise<Said | { code: number; verdict: unknown; details: string }> {
    const { requestSerialize, responseDeserialize } = json;
    return new Promise((resolve) => {
      const path = ECHO[name]!.path;
      this.client.makeUnaryRequest(path, requestSerialize, responseDeserialize, "hi", meta(bearer), (error, said) =>
        resolve(error === null ? said : refusal(error)),
      ) satisfies ClientUnaryCall;
    });
  }

  talk(bearer: string, name = "Talk"): ClientDuplexStream<string, string> {
    const { requestSerialize, responseDeserialize } = json;
    return this.client.makeBidiStreamRequest(ECHO[name]!.path, requestSerialize, responseDeserialize, meta(bearer));
  }

  async stop(): Promise<void> {
    this.client.close();
    this.server.forceShutdown();
    await this.checker.close();
  }
}

function meta(bearer: string | undefined): Metadata {
  const metadata = new Metadata();
  if (bearer !== undefined) metadata.set("authorization", `Bearer ${bearer}`);
  return metadata;
}

function refusal({ code, details, metadata }: StatusObject) {
  return { code, details, verdict: metadata.get("sallyport-verdict")[0] };
}

/** True if the program answers WatchChanges. */
const insecure = credentials.createInsecure();
const running: { stop(): Promise<unknown> }[] = [];
afterEach(async () => {
  for (const thing of running.splice(0).reverse()) await thing.stop();
});

async function echo(address: string, more: Partial<CheckerOptions> = {}): Promise<Echo> {
  const started = await Echo.start(new Checker({ validator: grpcValidator(address, insecure), ...more }));
  running.push(started);
  return started;
}

describe("with the program", () => {
  let sallyport: TestSallyport;
  let address: string;
  beforeAll(async () => {
    sallyport = await TestSallyport.start();
    address = new URL(sallyport.listeners.data).host;
    await sallyport.admin.tenants.createTenant({ tenant: { id: "another" } });
  });
  afterAll(() => sallyport?.stop());

  const revoke = (id: string) => sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } });

  test("a live token is admitted: the handler sees its identity, and not the credential", async () => {
    const service = await echo(address);
    const { tokenString } = await sallyport.createToken({ scopes: ["orders.*"] });
    expect(await service.call("Say", tokenString)).toEqual({ identity: "user:ann", authorization: [], text: "hi" });
    expect(await service.call("Write", tokenString)).toMatchObject({ identity: "user:ann" });
    expect(await service.call("Open")).toEqual({ authorization: [], text: "hi" });
  });

  test("each refusal has its status, and the verdict in a trailer", async () => {
    const service = await echo(address);
    const { tokenString } = await sallyport.createToken({ scopes: ["orders.read"], audiences: ["stock"] });
    expect(await service.call("Say")).toMatchObject({ code: 16, verdict: "NO_CREDENTIAL" });
    expect(await service.call("Say", "sp_pat_nonsense")).toMatchObject({ code: 16, verdict: "INVALID_TOKEN" });
    expect(await service.call("Audience", tokenString)).toMatchObject({ code: 16, verdict: "WRONG_AUDIENCE" });
    const { tokenString: wide } = await sallyport.createToken({ scopes: ["orders.read"] });
    expect(await service.call("Write", wide)).toMatchObject({ code: 7, verdict: "INSUFFICIENT_SCOPE" });
    expect(await service.call("Tenant", wide)).toMatchObject({ code: 7, verdict: "WRONG_TENANT" });
    const { tokenString: far } = await sallyport.createToken({ allowedCidrs: ["192.0.2.0/24"] });
    expect(await service.call("Say", far)).toMatchObject({ code: 7, verdict: "ADDRESS_NOT_ALLOWED" });
    const { tokenString: near } = await sallyport.createToken({ allowedCidrs: ["127.0.0.0/8"] });
    expect(await service.call("Say", near)).toMatchObject({ identity: "user:ann" });
  });

  test.each(["off", "feed"] as const)(
    "no call is admitted after the revocation returned OK: cache %s",
    async (cache) => {
      const service = await echo(address, { cache });
      for (let round = 0; round < 5; round++) {
        const { tokenString, id } = await sallyport.createToken();
        expect(await service.call("Say", tokenString)).toMatchObject({ identity: "user:ann" });
        await revoke(id);
        expect(await service.call("Say", tokenString)).toMatchObject({ code: 16, verdict: "INVALID_TOKEN" });
      }
    },
  );

  test("with a feed, checks are answered from the cache, and none after the revocation returned OK", async () => {
    const tiers: string[] = [];
    const hooks: Hooks = { checked: (_, tier) => tiers.push(tier) };
    const service = await echo(address, { cache: "feed", hooks });
    await expect.poll(() => service.checker.cache?.lease, { timeout: 20_000 }).toBeGreaterThan(0);
    for (let round = 0; round < 10; round++) {
      const { tokenString, id } = await sallyport.createToken();
      for (let call = 0; call < 3; call++) {
        expect(await service.call("Say", tokenString)).toMatchObject({ identity: "user:ann" });
      }
      await revoke(id);
      expect(await service.call("Say", tokenString)).toMatchObject({ code: 16, verdict: "INVALID_TOKEN" });
    }
    expect(tiers.filter((tier) => tier === "cache").length).toBeGreaterThan(0);
  });

  test("a stream passes messages in both directions, and ends when its token is revoked", async () => {
    const service = await echo(address);
    const { tokenString, id } = await sallyport.createToken();
    const stream = service.talk(tokenString);
    stream.write("one");
    expect(await once(stream, "data")).toEqual(["one"]);
    const ended = once(stream, "error") as Promise<[StatusObject]>;
    const cancelled = once(service.talks[0]!, "cancelled");
    await revoke(id);
    const [error] = await ended; // a silent stream: nobody writes
    expect(refusal(error)).toMatchObject({ code: 16, verdict: "INVALID_TOKEN" });
    await cancelled;
  });

  test.each(["off", "feed"] as const)(
    "a token counts in a further tenant until it is detached, in calls and in streams: cache %s",
    async (cache) => {
      const service = await echo(address, { cache });
      if (cache === "feed")
        await expect.poll(() => service.checker.cache?.lease, { timeout: 20_000 }).toBeGreaterThan(0);
      const { tokenString, id } = await sallyport.createToken({ tenants: ["another"] });
      for (const name of ["Say", "Tenant"]) {
        expect(await service.call(name, tokenString)).toMatchObject({ identity: "user:ann" });
      }
      const stream = service.talk(tokenString, "TenantTalk");
      stream.write("one");
      expect(await once(stream, "data")).toEqual(["one"]);
      const ended = once(stream, "error") as Promise<[StatusObject]>;
      await sallyport.admin.tokens.detachTenant({ tenant: "another", id });
      expect(await service.call("Tenant", tokenString)).toMatchObject({ code: 7, verdict: "WRONG_TENANT" });
      expect(await service.call("Say", tokenString)).toMatchObject({ identity: "user:ann" });
      expect(refusal((await ended)[0])).toMatchObject({ code: 7, verdict: "WRONG_TENANT" });
    },
  );

  test("a stream that ends by itself ends well", async () => {
    const service = await echo(address);
    const stream = service.talk((await sallyport.createToken()).tokenString);
    const texts: string[] = [];
    stream.on("data", (text) => texts.push(text));
    for (const text of ["one", "two", "three"]) stream.write(text);
    stream.end();
    await once(stream, "end");
    expect(texts).toEqual(["one", "two", "three"]);
  });

  test("a stream without a live token never reaches its handler", async () => {
    const service = await echo(address);
    const stream = service.talk("nonsense");
    stream.write("one");
    const [error] = (await once(stream, "error")) as [StatusObject];
    expect(refusal(error)).toMatchObject({ code: 16, verdict: "INVALID_TOKEN" });
    expect(service.talks).toEqual([]);
  });
});

describe("without an answer, calls are refused within the time of a check", () => {
  const sockets = new Set<Socket>();
  let silent: NetServer;
  beforeAll(async () => {
    silent = createServer((socket) => void sockets.add(socket.on("error", () => {}))).listen(0, "127.0.0.1");
    await once(silent, "listening");
  });
  afterAll(() => {
    for (const socket of sockets) socket.destroy();
    silent.close();
  });
  const address = () => `127.0.0.1:${(silent.address() as { port: number }).port}`;

  test("a server that says nothing", async () => {
    const service = await echo(address());
    expect(await service.call("Say", "opaque")).toMatchObject({ code: 14, verdict: "UNDETERMINED" });
    expect(await service.call("Open")).toMatchObject({ text: "hi" });
  });

  test("no server at all", async () => {
    const service = await echo("127.0.0.1:1");
    const begun = performance.now();
    expect(await service.call("Say", "opaque")).toMatchObject({ code: 14, verdict: "UNDETERMINED" });
    expect(performance.now() - begun).toBeLessThan(5_000);
  });
});
