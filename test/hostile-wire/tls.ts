import { connect as netConnect } from "node:net";
import { connect as tlsConnect } from "node:tls";
import { certify } from "../listen/certificates.ts";
import { rawConnect } from "../listen/wire.ts";
import type { Case } from "./hostile-wire.ts";

export const tls: readonly Case[] = [
  {
    title: "cleartext and garbage on a TLS port",
    async run(target) {
      for (const bytes of [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        Buffer.alloc(20_000, 0x16),
        Buffer.from([0x16, 3, 1, 0xff, 0xff]),
      ]) {
        const raw = await rawConnect(netConnect(target.port, "127.0.0.1"));
        raw.socket.write(bytes);
        if (bytes.length !== 5) await raw.closed;
        raw.socket.destroy();
      }
    },
  },
  {
    title: "connections reset in the middle of the handshake",
    async run(target) {
      for (let i = 0; i < 50; i++) {
        const socket = netConnect(target.port, "127.0.0.1");
        socket.on("error", () => {});
        await new Promise((resolve) => socket.once("connect", resolve));
        socket.write(Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]));
        socket.resetAndDestroy();
      }
    },
  },
  {
    title: "a client certificate with 10,000 names from an unknown CA",
    async run(target) {
      const names = Array.from({ length: 10_000 }, (_, n) => ({ dns: `n${n}.example` }));
      const who = certify("many", names);
      const socket = tlsConnect({
        port: target.port,
        host: "localhost",
        ca: target.ca,
        cert: who.certPem,
        key: who.keyPem,
      });
      const raw = await rawConnect(socket);
      socket.once("secureConnect", () => socket.end("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
      await raw.closed;
    },
  },
  {
    title: "an unknown ALPN protocol",
    async run(target) {
      const socket = tlsConnect({ port: target.port, host: "localhost", ca: target.ca, ALPNProtocols: ["spdy/3"] });
      await (await rawConnect(socket)).closed;
    },
  },
];
