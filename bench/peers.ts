import { execFile as execFileWithCallback } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Maybe, type Subject, startPeer } from "./subject.ts";

const execFile = promisify(execFileWithCallback);
const PEERS = join(import.meta.dirname, "peers");

/** The commands that start each peer. Go peers are built first, through the module proxy. */
const RECIPES = {
  "own http2 echo": { node: ["own-echo.ts"] },
  "own http2, same work": { node: ["own-work.ts"] },
  "node:http2, same work": { node: ["node-http2.ts"] },
  "grpc-js echo": { node: ["grpc-js-echo.ts"] },
  "connect-node echo": { node: ["connect-echo.ts"] },
  "connect-node echo, HTTP/1.1": { node: ["connect-echo.ts", "http1"] },
  "grpc-go, same work, GOGC=100": { go: "validate", gogc: "100" },
  "grpc-go, same work, GOGC=400": { go: "validate", gogc: "400" },
  "Go ext_authz, GOGC=100": { go: "authz", gogc: "100" },
  "Go ext_authz, GOGC=400": { go: "authz", gogc: "400" },
} as const satisfies Record<string, { node: readonly string[] } | { go: string; gogc: string }>;

export type PeerName = keyof typeof RECIPES;

/** Starts one peer that knows this token. A Go peer that cannot be built is missing, with the reason. */
export async function peer(name: PeerName, token: string, cache: string): Promise<Maybe> {
  const recipe = RECIPES[name];
  const env = { PEER_TOKEN: token };
  if ("node" in recipe) {
    const [file, ...args] = recipe.node;
    return startPeer(name, process.execPath, [join(PEERS, "node", file), ...args], env);
  }
  try {
    const program = await goProgram(recipe.go, cache);
    return await startPeer(name, program, [], { ...env, GOMAXPROCS: "1", GOGC: recipe.gogc });
  } catch (error) {
    return { name, missing: `not built: ${(error as Error).message.split("\n").slice(0, 2).join(" ")}` };
  }
}

let built: Promise<unknown> | undefined;

async function goProgram(program: string, cache: string): Promise<string> {
  const bin = join(cache, "bin");
  mkdirSync(bin, { recursive: true });
  built ??= execFile("go", ["build", "-o", `${bin}/`, "./validate", "./authz"], {
    cwd: join(PEERS, "go"),
    env: { ...process.env, CGO_ENABLED: "0" },
    timeout: 300_000,
  });
  await built;
  return join(bin, program);
}

export function isSubject(maybe: Maybe): maybe is Subject {
  return !("missing" in maybe);
}
