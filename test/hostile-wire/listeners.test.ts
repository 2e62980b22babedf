import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { create, toBinary } from "@bufbuild/protobuf";
import { ValidateTokenRequestSchema } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { certify, writeFiles } from "../listen/certificates.ts";
import { envelope, grpc, hostileWire, type Target } from "./hostile-wire.ts";

const program = fileURLToPath(new URL("./echo-process.ts", import.meta.url));
const MiB = 1024 * 1024;
const validate = {
  path: "/sallyport.v1.TokenValidator/ValidateToken",
  message: toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString: "hello" })),
};
const check = { path: "/grpc.health.v1.Health/Check", message: new Uint8Array() };

async function start(listener: "data" | "admin" | "ops", transport: "cleartext" | "tls"): Promise<Target> {
  const folder = mkdtempSync(join(tmpdir(), "sallyport-hostile-"));
  const ca = certify("ca", []);
  if (transport === "tls") writeFiles(folder, certify("server", [{ dns: "localhost" }], ca), ca);
  const child = spawn(process.execPath, [program, listener, ...(transport === "tls" ? [folder] : [])], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  const port = await new Promise<number>((resolve, reject) => {
    child.stdout.once("data", (line: Buffer) => resolve(Number(line.toString())));
    child.once("exit", (code) => reject(new Error(`the listener's process ended with ${code}`)));
  });
  const target: Target = {
    port,
    ...(transport === "tls" ? { ca: ca.certPem } : {}),
    rpc: listener === "ops" ? check : validate,
    probes: listener === "ops",
    pid: child.pid!,
    rssCapBytes: 340 * MiB,
    async normalRequest() {
      const answer = await grpc(target, envelope(target.rpc.message));
      if (answer.grpc !== 0) throw new Error(`an ordinary call was answered ${JSON.stringify(answer)}`);
      if (child.exitCode !== null) throw new Error("the listener's process has ended");
    },
    async close() {
      child.stdin.end();
      await exited;
      rmSync(folder, { recursive: true });
    },
  };
  return target;
}

hostileWire("data listener", "cleartext", () => start("data", "cleartext"));
hostileWire("admin listener", "cleartext", () => start("admin", "cleartext"));
hostileWire("ops listener", "cleartext", () => start("ops", "cleartext"));
hostileWire("admin listener under TLS", "tls", () => start("admin", "tls"));
