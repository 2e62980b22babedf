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
import { doorLimits } from "../../src/servers/limits.ts";
import { peerKey } from "../../src/services/peer.ts";
import { certify, type Identity, type San, writeFiles } from "./certificates.ts";
import { type EchoDoor, h1Request, openEchoDoor, VALIDATE } from "./echo-door.ts";
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

const doors: EchoDoor[] = [];
afterEach(async () => {
  for (const door of doors.splice(0)) await door.close();
});
async function open(
  tls: { clientCa?: Identity; allowedSans?: string[] } = {},
  more: Parameters<typeof openEchoDoor>[0] = {},
) {
  const files = writeFiles(folder, server, tls.clientCa);
  const door = await openEchoDoor({
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
  doors.push(door);
  return door;
}

const client = (who: Identity | undefined): ConnectionOptions => ({
  ca: ca.certPem,
  ...(who ? { cert: who.certPem, key: who.keyPem } : {}),
});

async function whoAmI(door: EchoDoor, who: Identity | undefined): Promise<string> {
  const transport = createGrpcTransport({ baseUrl: `https://localhost:${door.port}`, nodeOptions: client(who) });
  return (await createClient(TokenValidator, transport).validateToken({})).reason;
}

async function handshake(door: EchoDoor, options: ConnectionOptions): Promise<TLSSocket> {
  const socket = tlsConnect({ port: door.port, host: "localhost", ca: ca.certPem, ...options });
  await new Promise<void>((resolve, reject) => socket.once("secureConnect", resolve).once("error", reject));
  return socket;
}

describe("a TLS door", () => {
  test("serves h2 and HTTP/1.1 by ALPN, and HTTP/1.1 to a client that names none", async () => {
    const door = await open();
    const session = h2connect(`https://localhost:${door.port}`, { ca: ca.certPem });
    await new Promise((resolve) => session.once("remoteSettings", resolve));
    session.destroy();
    for (const ALPNProtocols of [["http/1.1"], undefined]) {
      const raw = await rawConnect(await handshake(door, ALPNProtocols ? { ALPNProtocols } : {}));
      raw.socket.write(h1Request(VALIDATE));
      await raw.closed;
      expect(raw.text()).toMatch(/^HTTP\/1\.1 200/);
    }
    expect(door.troubles).toEqual([]);
  });

  test("ends a connection that says one protocol and speaks the other", async () => {
    const door = await open();
    const raw = await rawConnect(await handshake(door, { ALPNProtocols: ["h2"] }));
    raw.socket.write(h1Request(VALIDATE));
    await raw.closed;
    expect(raw.text()).toBe("");
  });

  test("refuses TLS 1.1", async () => {
    const door = await open();
    await expect(
      handshake(door, { minVersion: "TLSv1.1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" }),
    ).rejects.toThrow();
  });

  test("without allowed names lets a caller without certificate in, as nobody", async () => {
    const door = await open({ clientCa: ca });
    expect(await whoAmI(door, undefined)).toBe(" false");
    expect(await whoAmI(door, certify("x", [{ uri: "spiffe://td/a" }], stranger))).toBe(" false");
    expect(await whoAmI(door, certify("x", [{ uri: "spiffe://td/a" }], ca))).toBe("spiffe://td/a false");
  });

  test("with allowed names lets only certificates of its CA with such a name in, and tells which name counts", async () => {
    const door = await open({ clientCa: ca, allowedSans: ["spiffe://td/envoy"] });
    const sans: San[] = [{ dns: "envoy.example" }, { uri: "spiffe://td/envoy" }];
    expect(await whoAmI(door, certify("envoy", sans, ca))).toBe("envoy.example spiffe://td/envoy true");
    await expect(whoAmI(door, certify("other", [{ uri: "spiffe://td/other" }], ca))).rejects.toThrow();
    await expect(whoAmI(door, undefined)).rejects.toThrow();
    await expect(whoAmI(door, certify("envoy", sans, stranger))).rejects.toThrow();
  });

  test("does not stumble over a certificate with 10,000 names", async () => {
    const door = await open({ clientCa: ca });
    const many = Array.from({ length: 10_000 }, (_, n) => ({ dns: `n${n}.example` }));
    await whoAmI(door, certify("many", many, ca)).catch(() => {}); // OpenSSL may refuse its size
    expect(await whoAmI(door, certify("one", [{ dns: "one.example" }], ca))).toBe("one.example false");
  });

  test("gives up a handshake that does not come to an end", async () => {
    const door = await open({}, { limits: { ...doorLimits("admin"), firstRequestMs: 150 } });
    const raw = await rawConnect(netConnect(door.port, "127.0.0.1"));
    raw.socket.write(Buffer.from([0x16, 0x03, 0x01]));
    await raw.closed;
    const garbage = await rawConnect(netConnect(door.port, "127.0.0.1"));
    garbage.socket.write("GET / HTTP/1.1\r\n\r\n");
    await garbage.closed;
    const cut = netConnect(door.port, "127.0.0.1");
    await new Promise((resolve) => cut.once("connect", resolve));
    cut.resetAndDestroy();
    await vi.waitFor(() => expect(door.stats().sockets).toBe(0));
    expect(door.stats().refusedRequests).toBeGreaterThan(0);
  });

  test("reloads its certificate for new connections, and keeps the old one when the new is bad", async () => {
    const door = await open();
    const serial = async () => {
      const socket = await handshake(door, {});
      const { serialNumber } = socket.getPeerX509Certificate()!;
      socket.destroy();
      return serialNumber;
    };
    const before = await serial();
    writeFiles(folder, certify("server", [{ dns: "localhost" }], ca));
    expect(door.reloadTls()).toBe(true);
    const after = await serial();
    expect(after).not.toBe(before);
    writeFileSync(join(folder, "cert.pem"), "garbage");
    expect(door.reloadTls()).toBe(false);
    expect(await serial()).toBe(after);
    expect(door.troubles.map(({ what }) => what)).toEqual(["admin door: certificate not reloaded"]);
  });

  test("drains without aborting the process", async () => {
    const door = await open();
    const session = h2connect(`https://localhost:${door.port}`, { ca: ca.certPem });
    await new Promise((resolve) => session.once("remoteSettings", resolve));
    const gone = new Promise((resolve) => session.once("goaway", resolve));
    await door.drain(2_000);
    await gone;
    expect(door.stats()).toMatchObject({ sockets: 0, sessions: 0 });
  });
});
