// A process with one real door, for suites that must see it live or die: `node echo-process.ts <data|admin|ops> [folder]`.
// Prints its port. The folder holds cert.pem, key.pem and ca.pem of a TLS door.
import { join } from "node:path";
import { openDoor } from "../../src/servers/door.ts";
import { doorLimits } from "../../src/servers/limits.ts";
import { opsListener } from "../../src/servers/ops.ts";
import { Health } from "../../src/services/health.ts";
import { openEchoDoor } from "../servers/echo-door.ts";

const [name, folder] = process.argv.slice(2) as ["data" | "admin" | "ops", string?];
const limits = doorLimits(name);
const onTrouble = (what: string, error: unknown): void => void process.stderr.write(`${what}: ${error}\n`);
const health = new Health([]);
health.set(true);
const tls = folder && {
  certFile: join(folder, "cert.pem"),
  keyFile: join(folder, "key.pem"),
  clientCaFile: join(folder, "ca.pem"),
};
const door =
  name === "ops"
    ? await openDoor({
        name,
        bind: "127.0.0.1:0",
        limits,
        onTrouble,
        listener: opsListener({
          limits,
          health,
          metrics: async () => ({ type: "text/plain", body: "" }),
          reasons: () => [],
        }),
      })
    : await openEchoDoor({ name, limits, onTrouble, ...(tls ? { tls } : {}), rpc: { grpcWeb: name === "admin" } });
process.stdout.write(`${door.port}\n`);
process.stdin.on("end", () => process.exit(0)).resume(); // never outlives the suite
