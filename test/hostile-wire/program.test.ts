// The corpus against the whole program: every listener, the data listener on both of its servers, in cleartext and under TLS.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect } from "vitest";
import { ValidateTokenRequestSchema } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { certify, writeFiles } from "../listen/certificates.ts";
import { FREE_PORTS } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { envelope, grpc, hostileWire, type Target } from "./hostile-wire.ts";

const MiB = 1024 * 1024;
/** Bytes that only a client knows: what it sent as a credential, and the start of what it was given as one. */
const CANARY = "sp_pat_CANARYcanaryCANARYcanary";
const HEALTH = { path: "/grpc.health.v1.Health/Check", message: new Uint8Array() };
const VALIDATE = {
  path: "/sallyport.v1.TokenValidator/ValidateToken",
  message: toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString: CANARY })),
};

const shared: { database: TestSallyport; folder: string } = {} as never;
const ca = certify("ca", []);
beforeAll(async () => {
  const database = await TestSallyport.start();
  const folder = mkdtempSync(join(tmpdir(), "sallyport-hostile-"));
  Object.assign(shared, { database, folder });
  writeFiles(folder, certify("server", [{ dns: "localhost" }], ca), ca);
});
afterAll(async () => {
  await shared.database?.stop();
  rmSync(shared.folder, { recursive: true, force: true });
});

async function start(
  listener: "data" | "admin" | "ops",
  transport: "cleartext" | "tls",
  http2: "builtin" | "node" = "builtin",
): Promise<Target> {
  const { database, folder } = shared;
  const tls = {
    cert_file: join(folder, "cert.pem"),
    key_file: join(folder, "key.pem"),
    client_ca_file: join(folder, "ca.pem"),
  };
  const secured = (name: string) => ({
    bind: "127.0.0.1:0",
    ...(transport === "tls" && name === listener ? { tls } : {}),
  });
  const program = await TestSallyport.start({
    database: database.database,
    keyring: database.keyring,
    config: { listeners: { ...FREE_PORTS, data: { ...secured("data"), http2 }, admin: secured("admin") } },
  });
  const target: Target = {
    port: Number(new URL(program.listeners[listener]).port),
    ...(transport === "tls" ? { ca: ca.certPem } : {}),
    rpc: listener === "data" ? VALIDATE : HEALTH,
    pid: program.program.pid,
    rssCapBytes: 400 * MiB,
    probes: listener === "ops",
    keepsIdle: listener === "data" && http2 === "builtin", // it is bound to the loopback
    async normalRequest() {
      const answer = await grpc(target, envelope(target.rpc.message));
      if (answer.grpc !== 0) throw new Error(`an ordinary call was answered ${JSON.stringify(answer)}`);
    },
    async close() {
      // The other listeners lived through it too, and the program still ends as it should.
      expect((await fetch(`${program.listeners.ops}/healthz`)).status).toBe(200);
      const code = await program.halt();
      const { out, err } = program.program;
      await program.dispose();
      expect(code).toBe(0);
      expect(out + err).not.toContain("CANARY");
      expect(out).not.toMatch(/"alarm":true|"event":"(uncaught_exception|unhandled_rejection)"/);
      expect(err).toBe("");
      expect(Buffer.byteLength(out)).toBeLessThan(4 * MiB); // nobody fills a disk by what is sent
    },
  };
  return target;
}

hostileWire("data listener of the program", "cleartext", () => start("data", "cleartext", "builtin"));
hostileWire("data listener of the program under TLS", "tls", () => start("data", "tls", "builtin"));
hostileWire("data listener of the program on node:http2", "cleartext", () => start("data", "cleartext", "node"));
hostileWire("data listener of the program on node:http2 under TLS", "tls", () => start("data", "tls", "node"));
hostileWire("admin listener of the program", "cleartext", () => start("admin", "cleartext"));
hostileWire("admin listener of the program under TLS", "tls", () => start("admin", "tls"));
hostileWire("ops listener of the program", "cleartext", () => start("ops", "cleartext"));
