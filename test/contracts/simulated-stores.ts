import { principalKey } from "../../src/domain/token-snapshot.ts";
import { type DatabaseFaults, ModelDatabase } from "../simulation/model-database.ts";
import { Network } from "../simulation/network.ts";
import { loadProduct } from "../simulation/product.ts";
import { Random } from "../simulation/random.ts";
import { Machine, World } from "../simulation/world.ts";
import { PARENT_PRINCIPAL, PRINCIPAL, ROLE, SCOPES, type Stores, TENANT, type TokenName } from "./stores.ts";

/** The simulation's doubles in fair weather: only some commits take long. Virtual time passes while a call is under way, and only then. */
export async function simulatedStores(faults: DatabaseFaults = {}): Promise<Stores> {
  const world = new World(new Random(1));
  const db = new ModelDatabase(world, faults, 5000);
  const network = new Network(world, db, await loadProduct());
  network.weather.longCommits = 0.3;
  db.tenants.set(TENANT, { state: "ACTIVE", cut: false });
  const make = (name: TokenName, principal: string, parent?: string, role?: string) => {
    const digest = name.padEnd(32, "-");
    db.principals.set(principalKey(TENANT, principal), { state: "ACTIVE", cut: false });
    db.tokens.set(digest, {
      digest,
      id: name,
      tenant: TENANT,
      principal,
      revoked: false,
      disabled: false,
      scopes: role === undefined ? SCOPES : [],
      ...(role !== undefined && { role }),
      ...(parent !== undefined && { parent }),
    });
    return { id: name, digest };
  };
  db.roles.set(ROLE, { scopes: SCOPES, deleted: false });
  const holder = make("holder", PARENT_PRINCIPAL, undefined, ROLE);
  const parent = make("parent", PARENT_PRINCIPAL);
  const tokens = {
    a: make("a", PRINCIPAL),
    b: make("b", PRINCIPAL),
    parent,
    child: make("child", PARENT_PRINCIPAL, parent.digest),
    holder,
    heir: make("heir", PARENT_PRINCIPAL, holder.digest),
  };
  db.publish();
  const [one, two] = [new Machine(world, 1), new Machine(world, 1)];
  return {
    reader: inTime(world, network.reader(one)),
    log: inTime(world, network.log(one)),
    other: inTime(world, network.log(two)),
    authority: inTime(
      world,
      network.store(one, () => {}),
    ),
    tokens,
    role: ROLE,
    close: async () => {},
  };
}

/** The port with virtual time passing until each of its promises is settled. */
function inTime<T extends object>(world: World, port: T): T {
  return new Proxy(port, {
    get(target, name) {
      const method = target[name as keyof T] as unknown;
      if (typeof method !== "function") return method;
      return (...args: unknown[]) => {
        const result: unknown = method.apply(target, args);
        return result instanceof Promise ? passing(world, result) : result;
      };
    },
  });
}

async function passing<T>(world: World, promise: Promise<T>): Promise<T> {
  let settled = false;
  const done = () => {
    settled = true;
  };
  promise.then(done, done);
  while (!settled) await world.runUntil(world.now + 1);
  return promise;
}
