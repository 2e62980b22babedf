import { cp, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { MUTANTS as SIMULATED } from "../simulation/mutants.ts";
import type { Patch } from "../simulation/product.ts";
import { FAULTS } from "./faults.ts";
import type { Fault } from "./round.ts";
import { SOURCE, type WorldOptions } from "./world.ts";

/** A broken program, and the fault under which the break must show. */
export interface Mutant {
  readonly name: string;
  readonly patches: readonly Patch[];
  readonly fault: Fault;
  readonly world?: Partial<WorldOptions>;
  /** The violation that must show; an ALLOW by default. */
  readonly shows?: RegExp;
  /** The duration of the fault, if it is not the usual one. */
  readonly seconds?: number;
}

const CACHE = join(import.meta.dirname, "../../.cache/fault-injection");

const faultOf = (name: string): Fault => FAULTS.find((fault) => fault.name === name)!;

/** One of the simulation's mutants, by its number. */
function simulated(number: string, fault: string, world: Partial<WorldOptions> = {}): Mutant {
  const found = SIMULATED.find(({ name }) => name.startsWith(`${number} `));
  if (found?.patches === undefined) throw new Error(`there is no mutant ${number}`);
  return { name: found.name, patches: found.patches, fault: faultOf(fault), world };
}

function both(one: Mutant, other: Mutant): Mutant {
  return { ...one, patches: [...one.patches, ...other.patches] };
}

/** Makes a `validate` that keeps each ALLOW for a second, by token and requirement. */
const KEEPING = `((validate: any) => {
  const kept = new Map<string, any>();
  return (text: string, requirement: unknown, ...more: unknown[]) => {
    const key = text + JSON.stringify(requirement);
    const before = kept.get(key);
    if (before !== undefined && performance.now() < before.until) return before.answer;
    const note = (answer: any) => {
      if (answer.verdict === "ALLOW") kept.set(key, { answer, until: performance.now() + 1000 });
      return answer;
    };
    const answer = validate(text, requirement, ...more);
    return answer instanceof Promise ? answer.then(note) : note(answer);
  };
})`;

/** Patches a method on its way to the one validation path. */
const KEEPERS: readonly Mutant[] = [
  {
    name: "M36 Check keeps an ALLOW",
    patches: [
      {
        file: "data-plane/check/ext-authz.ts",
        from: "this.#validate = validate;",
        to: `this.#validate = ${KEEPING}(validate);`,
      },
      { file: "data-plane/check/ext-authz.ts", from: "this.#known = known;", to: "this.#known = () => undefined;" },
    ],
    fault: faultOf("none"),
  },
  {
    name: "M37 the HTTP check keeps an ALLOW",
    patches: [
      {
        file: "data-plane/check/http-check.ts",
        from: "this.#validate = validate;",
        to: `this.#validate = ${KEEPING}(validate);`,
      },
    ],
    fault: faultOf("none"),
  },
  {
    name: "M38 introspection keeps an ALLOW",
    patches: [
      {
        file: "data-plane/check/routes.ts",
        from: "function introspectHandler(deps: CheckRoutesDeps): Handler {",
        to: `function introspectHandler(deps: CheckRoutesDeps): Handler {\n  const keeping = ${KEEPING}(deps.validate);`,
      },
      { file: "data-plane/check/routes.ts", from: "await introspect(deps.validate,", to: "await introspect(keeping," },
    ],
    fault: faultOf("none"),
  },
  {
    name: "M39 the admin listener keeps a caller",
    patches: [
      {
        file: "rpc/caller.ts",
        from: "    this.#deps = deps;",
        to: `    this.#deps = { ...deps, validate: ${KEEPING}(deps.validate) };`,
      },
    ],
    fault: faultOf("none"),
  },
];

export const MUTANTS: readonly Mutant[] = [
  simulated("M1", "partition"),
  simulated("M2", "last-poll-late", { revocation: { lease: "750ms", poll: "150ms" } }),
  simulated("M3", "none"),
  {
    name: "M4 fast retry",
    patches: [
      {
        file: "revocation/change-authority.ts",
        from: "const outcome = await withDeadline(",
        // A token that the first of two calls revoked is already revoked for the second.
        to: `const outcome = (done.commit.value as any)?.revokeTime < done.commit.dbTime - 4
          ? ({ mode: "ACKED", position: 0 } as const)
          : await withDeadline(`,
      },
    ],
    fault: { ...faultOf("partition"), load: { revokers: 24, changeRestMs: 10 } },
    world: { kinds: { twice: 100 } },
  },
  simulated("M5", "none", { redis: "own" }),
  simulated("M6", "fill-race"),
  // A row also has to be as new as what was applied here. That second guard catches a standby that has stood still for
  // some milliseconds, so the mutant goes without both.
  both(simulated("M7", "replica"), simulated("M58", "replica")),
  simulated("M8", "pause"),
  // A lease lasts long enough for the slow clock to be far behind at its end.
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
  ...KEEPERS,
  {
    name: "M40 one id in 16 is not waited for",
    patches: [
      {
        file: "revocation/ack-wait.ts",
        from: "(row) => row.appliedN < waiter.position!);",
        to: '(row) => row.appliedN < waiter.position! && !row.id.startsWith("0"));',
      },
    ],
    fault: faultOf("taken-for-dead"),
    world: { revocation: { lease: "1500ms", poll: "250ms" } },
    seconds: 8,
  },
  {
    name: "M41 the time of an own read from its receipt",
    patches: [
      {
        file: "validation/lookup.ts",
        from: "upper: reading.dbTime + (now - reading.sent)",
        to: "upper: reading.dbTime + (now - reading.received)",
      },
    ],
    fault: faultOf("expiry-race"),
  },
  {
    name: "M42 a position from before the own commit",
    patches: [
      {
        file: "revocation/change-authority.ts",
        from: "    const attempt = work(store)",
        to: "    const head = (await this.#deps.log.readEpoch().catch(() => undefined))?.position;\n    const attempt = work(store)",
      },
      {
        file: "revocation/change-authority.ts",
        from: "    const longestMs = leaseOver(",
        to: "    Object.assign(commit, { head });\n    const longestMs = leaseOver(",
      },
      { file: "revocation/ack-wait.ts", from: "position: undefined,", to: "position: (commit as any).head," },
    ],
    fault: faultOf("poll-slow"),
  },
  {
    name: "M43 a raise is not waited for",
    patches: [
      {
        file: "revocation/ack-wait.ts",
        from: "    if (!this.#running) void this.#run();",
        // Only a token that is enabled again, no other change.
        to: `    const { disabled, revokeTime } = ((commit as any).value ?? {}) as any;
    if (disabled === false && revokeTime === undefined) waiter.settle({ mode: "ACKED", position: 0 });
    if (!this.#running) void this.#run();`,
      },
    ],
    fault: faultOf("poll-slow"),
    world: { kinds: { enable: 100 } },
    shows: /^\(C\)/,
  },
  {
    name: "M60 the role is no dependency",
    patches: [
      {
        file: "domain/token-snapshot.ts",
        from: "for (const id of of.roles) keys.push(roleKey(id));",
        to: "",
      },
    ],
    fault: faultOf("none"),
    world: { kinds: { role: 100 } },
  },
];

/** Copies the program with changed text; it still finds node_modules. Returns the folder of its `main.ts`. */
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
