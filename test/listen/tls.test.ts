import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect as h2connect } from "node:http2";
import { connect as netConnect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from "node:tls";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { TokenValidator } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { listenerLimits } from "../../src/listen/limits.ts";
import { peerKey } from "../../src/rpc/peer.ts";
import { certify, type Identity, type San, writeFiles } from "./certificates.ts";
import { type EchoListener, h1Request, openEchoListener, VALIDATE } from "./echo-listener.ts";
import { rawConnect } from "./wire.ts";

const folder = mkdtempSync(join(tmpdir(), "sallyport-tls-"));
afterAll(() => rmSync(folder, { recursive: true }));

let ca: Identity;
let stranger: Identity;
let server: Identity;
beforeAll(() => {
  ca = certify("test ca", []);
  stranger = certify("another ca", []);
  server = certify("server", [{ dns: "localhost" }, { ip: "127.0.0.1" }], ca);
});

const listeners: EchoListener[] = [];
afterEach(async () => {
  for (const listener of listeners.splice(0)) await listener.close();
});
async function open(
  tls: { clientCa?: Identity; allowedSans?: string[] } = {},
  more: Parameters<typeof openEchoListener>[0] = {},
) {
  const files = writeFiles(folder, server, tls.clientCa);
  const listener = await openEchoListener({
    tls: { ...files, ...(tls.allowedSans ? { allowedSans: tls.allowedSans } : {}) },
    rpc: {
      routes: (router) =>
        router.service(TokenValidator, {
          validateToken: (_, { values }) => {
            const { sans, sanAllowed } = values.get(peerKey);
            return { reason: `${sans.join(" ")} ${sanAllowed}` };
          },
        }),
    },
    ...more,
  });
  listeners.push(listener);
  return listener;
}

const client = (who: Identity | undefined): ConnectionOptions => ({
  ca: ca.certPem,
  ...(who ? { cert: who.certPem, key: who.keyPem } : {}),
});

async function whoAmI(listener: EchoListener, who: Identity | undefined): Promise<string> {
  const transport = createGrpcTransport({ baseUrl: `https://localhost:${listener.port}`, nodeOptions: client(who) });
  return (await createClient(TokenValidator, transport).validateToken({})).reason;
}

async function handshake(listener: EchoListener, options: ConnectionOptions): Promise<TLSSocket> {
  const socket = tlsConnect({ port: listener.port, host: "localhost", ca: ca.certPem, ...options });
  await new Promise<void>((resolve, reject) => socket.once("secureConnect", resolve).once("error", reject));
  return socket;
}

describe("a TLS listener", () => {
  test("serves h2 and HTTP/1.1 by ALPN, and HTTP/1.1 to a client without ALPN", async () => {
    const listener = await open();
    const session = h2connect(`https://localhost:${listener.port}`, { ca: ca.certPem });
    await new Promise((resolve) => session.once("remoteSettings", resolve));
    session.destroy();
    for (const ALPNProtocols of [["http/1.1"], undefined]) {
      const raw = await rawConnect(await handshake(listener, ALPNProtocols ? { ALPNProtocols } : {}));
      raw.socket.write(h1Request(VALIDATE));
      await raw.closed;
      expect(raw.text()).toMatch(/^HTTP\/1\.1 200/);
    }
    expect(listener.troubles).toEqual([]);
  });

  test("ends a connection that negotiates one protocol and speaks the other", async () => {
    const listener = await open();
    const raw = await rawConnect(await handshake(listener, { ALPNProtocols: ["h2"] }));
    raw.socket.write(h1Request(VALIDATE));
    await raw.closed;
    expect(raw.text()).toBe("");
  });

  test("refuses TLS 1.1", async () => {
    const listener = await open();
    await expect(
      handshake(listener, { minVersion: "TLSv1.1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" }),
    ).rejects.toThrow();
  });

  test("without allowed names accepts a client without a certificate, as nobody", async () => {
    const listener = await open({ clientCa: ca });
    expect(await whoAmI(listener, undefined)).toBe(" false");
    expect(await whoAmI(listener, certify("x", [{ uri: "spiffe://td/a" }], stranger))).toBe(" false");
    expect(await whoAmI(listener, certify("x", [{ uri: "spiffe://td/a" }], ca))).toBe("spiffe://td/a false");
  });

  test("with allowed names accepts only certificates of its CA with such a name, and reports the name", async () => {
    const listener = await open({ clientCa: ca, allowedSans: ["spiffe://td/envoy"] });
    const sans: San[] = [{ dns: "envoy.example" }, { uri: "spiffe://td/envoy" }];
    expect(await whoAmI(listener, certify("envoy", sans, ca))).toBe("envoy.example spiffe://td/envoy true");
    await expect(whoAmI(listener, certify("other", [{ uri: "spiffe://td/other" }], ca))).rejects.toThrow();
    await expect(whoAmI(listener, undefined)).rejects.toThrow();
    await expect(whoAmI(listener, certify("envoy", sans, stranger))).rejects.toThrow();
  });

  test("handles a certificate with 10,000 names", async () => {
    const listener = await open({ clientCa: ca });
    const many = Array.from({ length: 10_000 }, (_, n) => ({ dns: `n${n}.example` }));
    await whoAmI(listener, certify("many", many, ca)).catch(() => {}); // OpenSSL may refuse its size
    expect(await whoAmI(listener, certify("one", [{ dns: "one.example" }], ca))).toBe("one.example false");
  });

  test("closes a handshake that does not end in time", async () => {
    const listener = await open({}, { limits: { ...listenerLimits("admin"), firstRequestMs: 150 } });
    const raw = await rawConnect(netConnect(listener.port, "127.0.0.1"));
    raw.socket.write(Buffer.from([0x16, 0x03, 0x01]));
    await raw.closed;
    const garbage = await rawConnect(netConnect(listener.port, "127.0.0.1"));
    garbage.socket.write("GET / HTTP/1.1\r\n\r\n");
    await garbage.closed;
    const cut = netConnect(listener.port, "127.0.0.1");
    await new Promise((resolve) => cut.once("connect", resolve));
    cut.resetAndDestroy();
    await vi.waitFor(() => expect(listener.stats().sockets).toBe(0));
    expect(listener.stats().refusedRequests).toBeGreaterThan(0);
  });

  test("names the address of a client that resets the connection during the handshake", async () => {
    const failures: string[][] = [];
    await open({}, { onHandshakeFailed: (...of) => void failures.push(of) }).then(async ({ port }) => {
      for (const hello of [Buffer.alloc(0), Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00])]) {
        const cut = netConnect(port, "127.0.0.1");
        await new Promise((resolve) => cut.once("connect", resolve));
        if (hello.length > 0) await new Promise((resolve) => cut.write(hello, resolve));
        cut.resetAndDestroy();
      }
    });
    await vi.waitFor(() => expect(failures).toHaveLength(2));
    expect(failures.map(([address, why]) => [address, why])).toEqual([
      ["127.0.0.1", "ECONNRESET"],
      ["127.0.0.1", "ECONNRESET"],
    ]);
  });

  test("reloads its certificate for new connections, and keeps the old one when the new is bad", async () => {
    const listener = await open();
    const serial = async () => {
      const socket = await handshake(listener, {});
      const { serialNumber } = socket.getPeerX509Certificate()!;
      socket.destroy();
      return serialNumber;
    };
    const before = await serial();
    writeFiles(folder, certify("server", [{ dns: "localhost" }], ca));
    expect(listener.reloadTls()).toBe(true);
    const after = await serial();
    expect(after).not.toBe(before);
    writeFileSync(join(folder, "cert.pem"), "garbage");
    expect(listener.reloadTls()).toBe(false);
    expect(await serial()).toBe(after);
    expect(listener.troubles.map(({ what }) => what)).toEqual(["certificate_reload_failed"]);
  });

  test("drains without aborting the process", async () => {
    const listener = await open();
    const session = h2connect(`https://localhost:${listener.port}`, { ca: ca.certPem });
    await new Promise((resolve) => session.once("remoteSettings", resolve));
    const gone = new Promise((resolve) => session.once("goaway", resolve));
    await listener.drain(2_000);
    await gone;
    expect(listener.stats()).toMatchObject({ sockets: 0, sessions: 0 });
  });
});
