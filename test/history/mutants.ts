import { cp, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { MUTANTS as SIMULATED } from "../simulation/mutants.ts";
import type { Patch } from "../simulation/product.ts";
import { FAULTS } from "./faults.ts";
import type { Fault } from "./round.ts";
import { SOURCE, type WorldOptions } from "./world.ts";

/** A broken program, and the fault under which it must be seen to be broken. */
export interface Mutant {
  readonly name: string;
  readonly patches: readonly Patch[];
  readonly fault: Fault;
  readonly world?: Partial<WorldOptions>;
  /** How long the fault holds, where that is not the usual time. */
  readonly seconds?: number;
}

const CACHE = join(import.meta.dirname, "../../.cache/history");

const faultOf = (name: string): Fault => FAULTS.find((fault) => fault.name === name)!;

/** One of those that the simulation catches, by the number that `revocation.md` gives it. */
function simulated(number: string, fault: string, world: Partial<WorldOptions> = {}): Mutant {
  const found = SIMULATED.find(({ name }) => name.startsWith(`${number} `));
  if (found?.patches === undefined) throw new Error(`there is no mutant ${number}`);
  return { name: found.name, patches: found.patches, fault: faultOf(fault), world };
}

export const MUTANTS: readonly Mutant[] = [
  simulated("M1", "partition"),
  simulated("M2", "last-poll-late", { revocation: { lease: "750ms", poll: "150ms" } }),
  simulated("M3", "none"),
  {
    name: "M4 fast retry",
    patches: [
      {
        file: "app/change-authority.ts",
        from: "const outcome = await before(",
        // What the first of two calls revoked, the second finds revoked already.
        to: `const outcome = (done.commit.value as any)?.revokeTime < done.commit.dbTime - 4
          ? ({ mode: "ACKED", position: 0 } as const)
          : await before(`,
      },
    ],
    fault: { ...faultOf("partition"), load: { revokers: 24, changeRestMs: 10 } },
    world: { kinds: { twice: 100 } },
  },
  simulated("M5", "none", { redis: "own" }),
  simulated("M6", "fill-race"),
  simulated("M7", "replica"),
  simulated("M8", "pause"),
  // A lease is held long enough for the slow clock to be far behind at its end.
  { ...simulated("M9", "partition", { badClocks: true, revocation: { lease: "3000ms", poll: "400ms" } }), seconds: 4 },
  simulated("M10", "poll-slow"),
  simulated("M11", "come-back"),
  simulated("M12", "lost-registration", { revocation: { lease: "3000ms", poll: "400ms" } }),
  {
    name: "M26 wall clock in the lease",
    patches: [
      { file: "domain/freshness.ts", from: "mono < this.#leaseUntil", to: "Date.now() < this.#leaseUntil", times: 2 },
      { file: "domain/freshness.ts", from: "sent + this.#leaseMs", to: "Date.now() - received + sent + this.#leaseMs" },
    ],
    fault: faultOf("clock-step"),
    world: { badClocks: true },
  },
];

/** Copies the program with its text changed; node_modules is found from there. Gives the folder of its `main.ts`. */
export async function build({ name, patches }: Pick<Mutant, "name" | "patches">): Promise<string> {
  const root = join(CACHE, name.split(" ")[0]!);
  const source = join(root, "src");
  await rm(root, { recursive: true, force: true });
  await mkdir(root, { recursive: true });
  await cp(SOURCE, source, { recursive: true });
  // The program reads its schema beside its source.
  for (const neighbour of ["proto", "package.json"])
    await symlink(join(SOURCE, "..", neighbour), join(root, neighbour));
  for (const { file, from, to, times = 1 } of patches) {
    const text = await readFile(join(source, file), "utf8");
    const found = text.split(from).length - 1;
    if (found !== times) throw new Error(`${file} has ${found} times, not ${times}: ${from}`);
    await writeFile(join(source, file), text.replaceAll(from, to));
  }
  return source;
}
