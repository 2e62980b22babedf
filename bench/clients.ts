import { execFileSync } from "node:child_process";
import { hash } from "node:crypto";
import { readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Checker } from "../clients/typescript/src/checker.ts";
import {
  ValidateTokenResponseSchema,
  Verdict,
  WatchChangesResponseSchema,
} from "../clients/typescript/src/gen/sallyport/v1/token_validator_pb.ts";
import type { Validator } from "../clients/typescript/src/validator.ts";
import { fetchProgram } from "../scripts/fetch.ts";
import { buildJavaClient, javaClassPath } from "../scripts/java-client.ts";
import { median } from "./measure.ts";
import { digits } from "./report.ts";

/*
 * The cost of a check that a client's own cache answers, and of the SHA-256 in it, which every cache by hash pays.
 * `npm run -s bench:clients`. Microseconds of CPU per call, the median of ROUNDS rounds. Needs Go, Java, Rust and Python for
 * their rows; that of Rust is of the clock, on an idle machine the same.
 */

const ROUNDS = 7;
const CALLS = 200_000;
const CLIENTS = join(import.meta.dirname, "../clients");

interface Figures {
  readonly check: number;
  readonly hash: number;
}

interface Vectors {
  readonly cases: readonly { readonly token: string; readonly refused: boolean }[];
}

/** A well-formed token string. */
function tokenString(): string {
  const { cases } = JSON.parse(readFileSync(join(CLIENTS, "vectors/offline.json"), "utf8")) as Vectors;
  return cases.find(({ token, refused }) => !refused && token.length > 60)!.token;
}

/** Answers every check with ALLOW and an entry, and the first poll with a lease of an hour. */
function alwaysLive(): Validator {
  const epoch = new Uint8Array(16);
  let polled = false;
  return {
    validate: async () =>
      create(ValidateTokenResponseSchema, {
        verdict: Verdict.ALLOW,
        token: {
          id: "tok_1",
          tenant: "default",
          principal: "user:ann",
          profile: "pat",
          scopes: ["orders.read", "billing.*"],
          expireTime: timestampFromMs(Date.now() + 86_400_000),
        },
        entry: { epoch, position: 5n, tags: [1n, 2n, 3n] },
      }),
    watch: async ({ sequence, leaving }, _, signal) => {
      if (polled && !leaving)
        await new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
      polled = true;
      const now = timestampFromMs(Date.now());
      const lease = { seconds: 3600n, nanos: 0 };
      const change = { sequence, epoch, position: 5n, lease, timeLower: now, timeUpper: now };
      return create(WatchChangesResponseSchema, change);
    },
    close: () => {},
  };
}

async function typescript(): Promise<Figures> {
  const token = tokenString();
  const requirement = { scopes: ["orders.read"] };
  let cached = 0;
  const checked = (_: unknown, tier: string) => void (tier === "cache" && cached++);
  const checker = new Checker({ validator: alwaysLive(), cache: "feed", hooks: { checked } });
  while (checker.cache!.lease === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  await checker.check(token, requirement);
  const rounds: Figures[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const check = await cpuPerCall(async () => {
      for (let i = 0; i < CALLS; i++) await checker.check(token, requirement);
    });
    const alone = await cpuPerCall(() => {
      for (let i = 0; i < CALLS; i++) hash("sha256", token, "base64");
    });
    rounds.push({ check, hash: alone });
  }
  await checker.close();
  if (cached !== ROUNDS * CALLS) throw new Error(`the cache answered only ${cached} checks`);
  return { check: median(rounds.map(({ check }) => check)), hash: median(rounds.map((round) => round.hash)) };
}

async function cpuPerCall(work: () => unknown): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / CALLS;
}

/** Undefined without Go. */
function go(): Figures | undefined {
  const env = { ...process.env, PATH: `${process.env["PATH"]}${delimiter}/usr/local/go/bin` };
  const args = ["test", "-run", "^$", "-bench", ".", "-cpu", "1", "-benchtime", "300ms", "-count", String(ROUNDS)];
  let printed: string;
  try {
    printed = execFileSync("go", args, { cwd: join(CLIENTS, "go"), env, encoding: "utf8" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const of = (name: string) =>
    median(
      [...printed.matchAll(new RegExp(`^${name}\\s.*?([\\d.]+) cpu-ns/op`, "gm"))].map(([, ns]) => Number(ns) / 1000),
    );
  return { check: of("BenchmarkCachedCheck"), hash: of("BenchmarkHash") };
}

/** Undefined without Rust. */
function rust(): Figures | undefined {
  const env = { ...process.env, CARGO_TARGET_DIR: join(CLIENTS, "../.cache/rust/target") };
  const args = ["test", "--release", "--locked", "--quiet", "--lib", "--", "--ignored", "--nocapture", "cost"];
  let printed: string;
  try {
    printed = execFileSync("cargo", args, { cwd: join(CLIENTS, "rust"), env, encoding: "utf8" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const of = (name: string) =>
    median([...printed.matchAll(new RegExp(`${name} (\\d+) ns`, "g"))].map(([, ns]) => Number(ns) / 1000));
  return { check: of("check"), hash: of("hash") };
}

/** Of a server on asyncio, and of one on threads. Undefined without Python and grpcio. */
async function python(): Promise<{ readonly asyncio: Figures; readonly threads: Figures } | undefined> {
  const library = await fetchProgram("grpcio-tools").catch(({ message }: Error) => {
    console.error(`Python is not measured: ${message}`);
    return undefined;
  });
  if (library === undefined) return undefined;
  const env = { ...process.env, PYTHONPATH: library, PYTHONDONTWRITEBYTECODE: "1" };
  const printed = execFileSync("python3", ["-m", "bench"], { cwd: join(CLIENTS, "python"), env, encoding: "utf8" });
  const { asyncio, threads, hash } = JSON.parse(printed);
  return { asyncio: { check: asyncio, hash }, threads: { check: threads, hash } };
}

/** Undefined without Java and Maven. */
async function java(): Promise<Figures | undefined> {
  const repository = await fetchProgram("java-client").catch(({ message }: Error) => {
    console.error(`Java is not measured: ${message}`);
    return undefined;
  });
  if (repository === undefined) return undefined;
  await buildJavaClient(repository, "process-test-classes");
  const args = ["-XX:+UseSerialGC", "-cp", await javaClassPath(), "dev.sallyport.client.Bench"];
  return JSON.parse(execFileSync("java", args, { cwd: join(CLIENTS, "java"), encoding: "utf8" }));
}

const ofPython = await python();
const rows: readonly [name: string, figures: Figures | undefined, budget: number][] = [
  ["TypeScript", await typescript(), 3],
  ["Go", go(), 1],
  ["Java", await java(), 1],
  ["Rust", rust(), 1],
  ["Python, asyncio", ofPython?.asyncio, 15],
  ["Python, threads", ofPython?.threads, 15],
];
console.log("| client | cached check, µs CPU | SHA-256 in it, µs CPU | budget, µs | |\n|---|---|---|---|---|");
for (const [name, figures, budget] of rows) {
  if (figures === undefined) console.log(`| ${name} | not run: its language is not installed | | ${budget} | |`);
  else {
    const judged = figures.check <= budget ? "met" : "not met";
    console.log(`| ${name} | **${digits(figures.check)}** | ${digits(figures.hash)} | ≤ ${budget} | ${judged} |`);
  }
}
