import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { Secret } from "../../src/domain/secret.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import {
  ValidateTokenRequestSchema,
  ValidateTokenResponseSchema,
  Verdict,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { askPeer } from "../../src/revocation/canary-peer.ts";
import { cli } from "../cli/peer.ts";
import { framed, http2Asker, TYPES } from "../data-plane/data-listener.ts";
import { certify, type Identity, writeFiles } from "../listen/certificates.ts";
import { FREE_PORTS, patiently } from "../support/program.ts";
import { outcome, TestSallyport } from "../support/sallyport.ts";

const VALIDATE = "/sallyport.v1.TokenValidator/ValidateToken";
const ca = certify("ca", []);
const newServer = () => certify("server", [{ dns: "localhost" }], ca);

let store: TestSallyport;
let tokenString: string;
beforeAll(async () => {
  store = await TestSallyport.start();
  ({ tokenString } = await store.createToken());
});
afterAll(() => store?.stop());

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sallyport-tls-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const tlsOf = (path: string, more: object = {}) => ({
  cert_file: join(path, "cert.pem"),
  key_file: join(path, "key.pem"),
  ...more,
});
const start = (data: object, admin: object = {}, config: object = {}) =>
  TestSallyport.start({
    database: store.database,
    keyring: store.keyring,
    config: {
      listeners: { ...FREE_PORTS, data: { bind: "127.0.0.1:0", ...data }, admin: { bind: "127.0.0.1:0", ...admin } },
      ...config,
    },
  });
const https = (url: string): string => url.replace("http:", "https:").replace("127.0.0.1", "localhost");
const portOf = (url: string): number => Number(new URL(url).port);

/** The serial number of the certificate that a new connection sees. */
function serial(url: string, trusted: Identity = ca): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = tlsConnect({ port: portOf(url), host: "localhost", ca: trusted.certPem, ALPNProtocols: ["h2"] });
    socket.once("error", reject);
    socket.once("secureConnect", () => {
      resolve(socket.getPeerX509Certificate()!.serialNumber);
      socket.destroy();
    });
  });
}

/** A connection that is kept and sends requests. */
function client(url: string, who?: Identity) {
  const asker = http2Asker(https(url), { ca: ca.certPem, ...(who && { cert: who.certPem, key: who.keyPem }) });
  const question = framed(toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString })));
  return {
    close: asker.close,
    async verdict() {
      const { body } = await asker.ask(VALIDATE, { "content-type": TYPES.grpc, te: "trailers" }, question);
      return fromBinary(ValidateTokenResponseSchema, body.subarray(5)).verdict;
    },
  };
}

describe("TLS in the configuration", () => {
  test.each(["builtin", "node"])(
    "a new certificate is shown after SIGHUP, and no connection is dropped (%s)",
    async (http2) => {
      writeFiles(folder, newServer());
      await using sallyport = await start({ tls: tlsOf(folder), http2 }, { tls: tlsOf(folder) });
      const kept = client(sallyport.listeners.data);
      expect(await kept.verdict()).toBe(Verdict.ALLOW);
      const before = [await serial(sallyport.listeners.data), await serial(sallyport.listeners.admin)];
      expect(before[0]).toBe(before[1]);
      writeFiles(folder, newServer());
      sallyport.program.kill("SIGHUP");
      await sallyport.program.until(({ out }) => out.includes('"reloaded"'), "it reloaded");
      const after = [await serial(sallyport.listeners.data), await serial(sallyport.listeners.admin)];
      expect(after[0]).toBe(after[1]);
      expect(after[0]).not.toBe(before[0]);
      expect(await kept.verdict()).toBe(Verdict.ALLOW);
      kept.close();
    },
  );

  test("a certificate that changes in place, or by its link, is loaded without a signal", async () => {
    const version = (name: string): void => {
      mkdirSync(join(folder, name));
      writeFiles(join(folder, name), newServer());
      symlinkSync(name, join(folder, "next"));
      renameSync(join(folder, "next"), join(folder, "current"));
    };
    version("v1");
    const direct = mkdtempSync(join(tmpdir(), "sallyport-tls-"));
    writeFiles(direct, newServer());
    await using sallyport = await start({ tls: tlsOf(join(folder, "current")) }, { tls: tlsOf(direct) });
    const kept = client(sallyport.listeners.data);
    const [linked, plain] = [await serial(sallyport.listeners.data), await serial(sallyport.listeners.admin)];
    version("v2");
    writeFiles(direct, newServer());
    const patience = { timeout: 10_000, interval: 100 };
    await expect.poll(() => serial(sallyport.listeners.data), patience).not.toBe(linked);
    await expect.poll(() => serial(sallyport.listeners.admin), patience).not.toBe(plain);
    expect(await kept.verdict()).toBe(Verdict.ALLOW);
    kept.close();
    rmSync(direct, { recursive: true });
  });

  test("a certificate that cannot be used keeps the old one and is reported, and the next good one is loaded", async () => {
    writeFiles(folder, newServer());
    await using sallyport = await start({ tls: tlsOf(folder) });
    const kept = client(sallyport.listeners.data);
    const before = await serial(sallyport.listeners.data);
    const complaints = () => sallyport.program.out.split('"alarm":true').length - 1;
    const notes = () => sallyport.program.out.split('"reloaded"').length - 1;
    const bad: readonly [string, () => void][] = [
      ["no certificate", () => writeFileSync(join(folder, "cert.pem"), "garbage")],
      ["the key of another", () => writeFileSync(join(folder, "key.pem"), newServer().keyPem)],
      ["an empty file", () => writeFileSync(join(folder, "cert.pem"), "")],
      ["no file", () => rmSync(join(folder, "cert.pem"))],
    ];
    for (const [what, spoil] of bad) {
      writeFiles(folder, newServer());
      spoil();
      const had = complaints();
      sallyport.program.kill("SIGHUP");
      await sallyport.program.until(() => complaints() > had, `it complained of ${what}`);
      expect(await serial(sallyport.listeners.data), what).toBe(before);
      expect(await kept.verdict()).toBe(Verdict.ALLOW);
      await new Promise((resolve) => setTimeout(resolve, 1_100)); // Each kind of trouble gets a line a second.
    }
    expect(notes()).toBe(0);
    expect(sallyport.program.out).not.toContain("PRIVATE KEY");
    writeFiles(folder, newServer());
    sallyport.program.kill("SIGHUP");
    await sallyport.program.until(() => notes() > 0, "it reloaded");
    expect(await serial(sallyport.listeners.data)).not.toBe(before);
    kept.close();
  });

  test("a start with a certificate that cannot be used is refused", async () => {
    writeFiles(folder, newServer());
    writeFileSync(join(folder, "cert.pem"), "garbage");
    await expect(start({ tls: tlsOf(folder) })).rejects.toThrow(/ended with [1-9]/);
  });
});

/** The log lines about failed handshakes, and their count for a listener. */
async function handshakes(sallyport: TestSallyport, listener: "data" | "admin") {
  const lines = sallyport.program.out
    .split("\n")
    .filter((line) => line.includes("a TLS handshake failed"))
    .map((line) => JSON.parse(line))
    .filter((line) => line.listener === listener);
  const metrics = await (await fetch(`${sallyport.listeners.ops}/metrics`)).text();
  const counted = new RegExp(`tls_handshake_failures_total\\{listener="${listener}"\\} (\\d+)`).exec(metrics)?.[1];
  return { lines, counted: Number(counted ?? 0) };
}

describe("a TLS listener", () => {
  test("counts handshakes that fail, and logs some of them with address and cause", async () => {
    writeFiles(folder, newServer(), ca);
    const client_ca_file = join(folder, "ca.pem");
    const named = { client_ca_file, allowed_sans: ["spiffe://td/envoy"] };
    await using sallyport = await start({ tls: tlsOf(folder, named) }, { tls: tlsOf(folder) });
    expect(await handshakes(sallyport, "admin")).toEqual({ lines: [], counted: 0 });
    await expect(fetch(sallyport.listeners.admin.replace("https:", "http:"))).rejects.toThrow(); // cleartext
    await expect.poll(async () => (await handshakes(sallyport, "admin")).counted).toBe(1);
    expect((await handshakes(sallyport, "admin")).lines).toMatchObject([
      { address: "127.0.0.1", why: "ERR_SSL_HTTP_REQUEST", level: "info" },
    ]);
    // A client that got through leaves no line; the certificate of an untrusted CA does.
    const known = createConnectTransport({
      baseUrl: https(sallyport.listeners.admin),
      httpVersion: "1.1",
      nodeOptions: { ca: ca.certPem },
    });
    expect(await outcome(createClient(TokenAdmin, known).listTokens({}))).toBe("CALLER_UNAUTHENTICATED");
    const stranger = client(sallyport.listeners.data, certify("client", [{ uri: "spiffe://td/other" }], ca));
    await expect(stranger.verdict()).rejects.toThrow();
    stranger.close();
    await expect.poll(async () => (await handshakes(sallyport, "data")).counted).toBe(1);
    expect((await handshakes(sallyport, "data")).lines).toMatchObject([
      { address: "127.0.0.1", why: "SAN_NOT_ALLOWED" },
    ]);
    // A flood is counted completely, and logged in part.
    for (let n = 0; n < 40; n++) await fetch(sallyport.listeners.admin).catch(() => {});
    await expect.poll(async () => (await handshakes(sallyport, "admin")).counted).toBe(41);
  });

  test("does not wait, when it stops, for a client that left in the middle of the handshake", async () => {
    writeFiles(folder, newServer());
    const sallyport = await start({ tls: tlsOf(folder) }, { tls: tlsOf(folder) });
    for (const listener of ["data", "admin"] as const)
      for (let n = 0; n < 5; n++) await serial(sallyport.listeners[listener]);
    const from = performance.now();
    expect(await sallyport.halt()).toBe(0);
    expect(performance.now() - from).toBeLessThan(3_000); // the handshake has 5 s
    await sallyport.dispose();
  });
});

describe("mTLS in the configuration", () => {
  const named = (uri: string, issuer = ca) => certify("client", [{ uri }], issuer);

  test("a client certificate is a caller of the admin listener by its SAN, with exactly its permissions", async () => {
    writeFiles(folder, newServer(), ca);
    const tls = tlsOf(folder, { client_ca_file: join(folder, "ca.pem") });
    const san = "spiffe://td/ci";
    const mtls = [{ san, tenant: "default", permissions: ["sallyport.tokens.create", "sallyport.tokens.read"] }];
    await using sallyport = await start({}, { tls }, { callers: { mtls } });
    const as = (who: Identity | undefined, http = "2" as "1.1" | "2") =>
      createClient(
        TokenAdmin,
        createConnectTransport({
          baseUrl: https(sallyport.listeners.admin),
          httpVersion: http,
          nodeOptions: { ca: ca.certPem, ...(who && { cert: who.certPem, key: who.keyPem }) },
        }),
      );
    for (const http of ["2", "1.1"] as const) {
      const ci = as(named(san), http);
      const { token } = await ci.createToken({ profile: "org", principal: "org:by-mtls" });
      expect(token?.createdBy).toBe(`mtls:${san}`);
      expect((await ci.listTokens({ principal: "org:by-mtls" })).tokens.length).toBeGreaterThan(0);
      expect(await outcome(ci.revokeToken({ target: { case: "id", value: token!.id } }))).toBe("CALLER_FORBIDDEN");
      for (const stranger of [undefined, named("spiffe://td/other"), named(san, certify("another ca", []))])
        expect(await outcome(as(stranger, http).listTokens({}))).toBe("CALLER_UNAUTHENTICATED");
    }
  });

  test("a certificate can grant the scopes of its configuration, and no others", async () => {
    writeFiles(folder, newServer(), ca);
    const tls = tlsOf(folder, { client_ca_file: join(folder, "ca.pem") });
    const caller = { san: "spiffe://td/ci", tenant: "default", permissions: ["sallyport.tokens.create"] };
    await using sallyport = await start({}, { tls }, { callers: { mtls: [{ ...caller, scopes: ["repo:*"] }] } });
    const { certPem: cert, keyPem: key } = named(caller.san);
    const ci = createClient(
      TokenAdmin,
      createConnectTransport({
        baseUrl: https(sallyport.listeners.admin),
        httpVersion: "1.1",
        nodeOptions: { ca: ca.certPem, cert, key },
      }),
    );
    const created = (scopes: string[]) =>
      patiently(
        () => ci.createToken({ profile: "org", principal: "org:by-scope", displayName: "x", scopes }),
        async (_, error) => String(error).includes("overloaded"),
      );
    expect((await created(["repo:read"])).token?.scopes).toEqual(["repo:read"]);
    for (const scopes of [["wiki:read"], ["sallyport.admin"], ["sallyport.tokens.read"]])
      expect(await outcome(created(scopes)), scopes[0]).not.toBe("OK");
    // The command line connects with the same files, and from a folder without an administrator's token.
    const before = process.cwd();
    process.chdir(folder);
    onTestFinished(() => process.chdir(before));
    for (const [name, text] of Object.entries({ "me.pem": cert, "me-key.pem": key, garbage: "x" }))
      writeFileSync(join(folder, name), text);
    const create = ["tokens", "create", "--profile", "org", "--principal", "org:by-cli", "--display-name", "x"];
    const address = ["--address", https(sallyport.listeners.admin)];
    const at = (name: string) => join(folder, name);
    const flags = ["--ca-file", at("ca.pem"), "--cert-file", at("me.pem"), "--key-file", at("me-key.pem")];
    const env = { SALLYPORT_TOKEN: "" };
    const typed = (argv: readonly string[], env: Record<string, string>) =>
      patiently(
        () => cli(argv, { env }),
        async (ran) => ran?.err.includes("overloaded") ?? false,
      );
    const files = { SALLYPORT_CA_FILE: flags[1]!, SALLYPORT_CERT_FILE: flags[3]!, SALLYPORT_KEY_FILE: flags[5]! };
    expect(await typed([...create, ...address, ...flags], env)).toMatchObject({ exit: 0 });
    expect(await typed([...create, ...address], { ...env, ...files })).toMatchObject({ exit: 0 });
    const untrusted = await cli([...create, ...address], { env });
    expect([untrusted.exit, untrusted.err]).toEqual([69, expect.stringContaining("--ca-file")]);
    for (const [given, text] of [
      [["--ca-file", at("none")], "there is no such file"],
      [["--ca-file", at("garbage")], "is not PEM"],
      [flags.slice(0, 4), "needs both"],
      [[...flags.slice(0, 5), at("key.pem")], "cannot be used"],
    ] as const) {
      const { exit, err } = await cli([...create, ...address, ...given], { env });
      expect([exit, err], text).toEqual([2, expect.stringContaining(text)]);
    }
  });

  test("the canary asks over https with its certificate, and over a unix socket", async () => {
    writeFiles(folder, newServer(), ca);
    const envoy = named("spiffe://td/canary");
    writeFileSync(join(folder, "me.pem"), envoy.certPem);
    writeFileSync(join(folder, "me-key.pem"), envoy.keyPem);
    const tls = tlsOf(folder, { client_ca_file: join(folder, "ca.pem"), allowed_sans: ["spiffe://td/canary"] });
    await using mutual = await start({ tls });
    const bind = `unix:${join(folder, "data.sock")}`;
    await using local = await start({ bind });
    const secret = new Secret(tokenString);
    const files = {
      caFile: join(folder, "ca.pem"),
      certFile: join(folder, "me.pem"),
      keyFile: join(folder, "me-key.pem"),
    };
    const ask = (...args: Parameters<typeof askPeer>) =>
      patiently(
        () => askPeer(...args),
        async (_, error) => String(error).includes("answered 429"),
      );
    expect(await ask(https(mutual.listeners.data), secret, files)).toBe("ALLOW");
    expect(await ask(local.listeners.data, new Secret("sp_pat_1x"), {})).toBe("INVALID_TOKEN");
    expect(await ask(bind, secret, {})).toBe("ALLOW");
    await expect(ask(https(mutual.listeners.data), secret, { caFile: files.caFile })).rejects.toThrow("answered 401");
    await expect(ask(https(mutual.listeners.data), secret, {})).rejects.toThrow();
  });

  test("a new CA is trusted at once, and the old one no longer", async () => {
    writeFiles(folder, newServer(), ca);
    const allowed_sans = ["spiffe://td/envoy"];
    await using sallyport = await start({
      trust_peers: false,
      tls: tlsOf(folder, { client_ca_file: join(folder, "ca.pem"), allowed_sans }),
    });
    const next = certify("next ca", []);
    const [old, fresh] = [named("spiffe://td/envoy"), named("spiffe://td/envoy", next)];
    const ask = async (who: Identity) => {
      const one = client(sallyport.listeners.data, who);
      return one.verdict().finally(one.close);
    };
    expect(await ask(old)).toBe(Verdict.ALLOW);
    await expect(ask(fresh)).rejects.toThrow();
    writeFiles(folder, newServer(), next);
    sallyport.program.kill("SIGHUP");
    await sallyport.program.until(({ out }) => out.includes('"reloaded"'), "it reloaded");
    expect(await ask(fresh)).toBe(Verdict.ALLOW);
    await expect(ask(old)).rejects.toThrow();
  });

  test("a TLS listener serves neither a cleartext client nor one that trusts another CA", async () => {
    writeFiles(folder, newServer());
    await using sallyport = await start({ tls: tlsOf(folder) });
    await expect(fetch(`${sallyport.listeners.data}/`)).rejects.toThrow();
    const stranger = createGrpcTransport({
      baseUrl: https(sallyport.listeners.data),
      nodeOptions: { ca: certify("x", []).certPem },
    });
    const refused = await createClient(TokenAdmin, stranger)
      .listTokens({})
      .catch((error) => error);
    expect(refused).toBeInstanceOf(ConnectError);
    expect((await fetch(`${sallyport.listeners.ops}/healthz`)).status).toBe(200); // always cleartext
  });
});
