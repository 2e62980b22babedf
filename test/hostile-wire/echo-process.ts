// A process with one real listener, for suites that must see it live or die: `node echo-process.ts <data|admin|ops> [folder]`.
// Prints its port. The folder holds cert.pem, key.pem and ca.pem of a TLS listener.
import { join } from "node:path";
import { listenerLimits } from "../../src/listen/limits.ts";
import { openListener } from "../../src/listen/listener.ts";
import { opsHandler } from "../../src/ops/ops.ts";
import { Health } from "../../src/rpc/health.ts";
import { openEchoListener } from "../listen/echo-listener.ts";

const [name, folder] = process.argv.slice(2) as ["data" | "admin" | "ops", string?];
const limits = listenerLimits(name);
const onTrouble = (what: string, error: unknown): void => void process.stderr.write(`${what}: ${error}\n`);
const health = new Health([]);
health.set(true);
const tls = folder && {
  certFile: join(folder, "cert.pem"),
  keyFile: join(folder, "key.pem"),
  clientCaFile: join(folder, "ca.pem"),
};
const listener =
  name === "ops"
    ? await openListener({
        name,
        bind: "127.0.0.1:0",
        limits,
        onTrouble,
        handler: opsHandler({
          limits,
          health,
          metrics: async () => ({ type: "text/plain", body: "" }),
          reasons: () => [],
        }),
      })
    : await openEchoListener({ name, limits, onTrouble, ...(tls ? { tls } : {}), rpc: { grpcWeb: name === "admin" } });
process.stdout.write(`${listener.port}\n`);
process.stdin.on("end", () => process.exit(0)).resume(); // never outlives the suite
