import { principalKey, roleKey } from "../../src/domain/token-snapshot.ts";
import type { AuthorityStore } from "../../src/revocation/authority-store.ts";
import type { Committed, RevocationLog } from "../../src/revocation/ports.ts";
import type { TokenReader } from "../../src/validation/ports.ts";
import { type Change, type ModelDatabase, NAMES, type TokenRow } from "./model-database.ts";
import type { Product } from "./product.ts";
import type { Machine, World } from "./world.ts";

/** The quality of the connections to the database: probabilities, and messages that are held back on purpose. */
export interface Weather {
  /** The probability of a message that takes up to 480 ms. */
  slow: number;
  /** The probability of a lost wake-up. */
  lostWakeUps: number;
  /** The probability of a statement that a standby answers. */
  standby: number;
  /** The probability of a transaction whose end takes long. */
  longCommits: number;
}

export type Kind = "read" | "poll" | "register" | "missing" | "change" | "other";

/** The result of a change of authority besides its commit: true if it changed nothing. */
export interface Changed {
  readonly already: boolean;
  readonly digest: string | undefined;
}

/**
 * Statements in transit: sent, executed at one moment, and answered; or lost, late, or answered by the wrong server.
 */
export class Network {
  readonly weather: Weather = { slow: 0, lostWakeUps: 0, standby: 0, longCommits: 0 };
  readonly #world: World;
  readonly #db: ModelDatabase;
  readonly #product: Product;
  readonly #listeners = new Map<Machine, () => void>();
  readonly #held: { machine: Machine; kind: Kind; out: number; back: number }[] = [];
  readonly #bound = new Map<Machine, number>();
  /** Versions that a failover took away before their commit was acknowledged. */
  readonly lost: { from: number; to: number }[] = [];
  /** The latest version whose commit was acknowledged to anybody. */
  acknowledged = 0;

  constructor(world: World, db: ModelDatabase, product: Product) {
    this.#world = world;
    this.#db = db;
    this.#product = product;
  }

  /** The delay of the next statement of this kind from this machine. */
  hold(machine: Machine, kind: Kind, out: number, back: number): void {
    this.#held.push({ machine, kind, out, back });
  }

  /** The next read from this machine runs on the snapshot of this version. */
  bind(machine: Machine, version: number): void {
    this.#bound.set(machine, version);
  }

  wakeUp(): void {
    const { random } = this.#world;
    for (const [machine, listener] of this.#listeners) {
      if (!random.chance(this.weather.lostWakeUps)) this.#world.after(random.between(0.5, 8), listener, machine);
    }
  }

  reader(machine: Machine): TokenReader {
    return {
      read: async (digest, timeoutMs) => {
        const sent = machine.clock.mono();
        const bound = this.#bound.get(machine);
        this.#bound.delete(machine);
        const row = await this.#call(machine, "read", timeoutMs, () => {
          if (bound !== undefined) return this.#db.readBound(digest, bound);
          return this.#world.random.chance(this.weather.standby)
            ? this.#db.readOfStandby(digest, Math.floor(this.#world.random.between(0, 4)))
            : this.#db.read(digest);
        });
        return { ...row, sent, received: machine.clock.mono() };
      },
      reconnect: () => {},
    };
  }

  log(machine: Machine): RevocationLog {
    const call = <T>(kind: Kind, run: () => T) => this.#call(machine, kind, 500, run);
    const standby = <T extends object>(run: () => T) => {
      if (!this.#world.random.chance(this.weather.standby)) return run();
      return { ...run(), inRecovery: true, epoch: "-/i/77", position: 1e6 };
    };
    return {
      readEpoch: () => call("other", () => ({ ...this.#db.evidence(), maxBoundMs: 1500, names: NAMES })),
      poll: (me, epoch, applied) => call("poll", () => standby(() => this.#db.poll(me, epoch, applied))),
      register: (entry) => call("register", () => this.#db.register(entry, machine)),
      ack: (me, epoch, applied, clients) => call("other", () => this.#db.ack(me, epoch, applied, machine, clients)),
      deregister: (me) => call("other", () => this.#db.leave(me, machine)),
      unacknowledged: (epoch, position) => call("missing", () => standby(() => this.#db.missing(epoch, position))),
      validators: () => call("other", () => this.#db.registry()),
      reap: (ids) => call("other", () => this.#db.reap(ids)),
      deleteReaped: (ids, epoch) => call("other", () => this.#db.bury(ids, epoch)),
      markSettled: (epoch, names) => call("other", () => this.#db.settle(epoch, names)),
      reportLost: (epoch, records) => call("other", () => this.#db.reportLost(epoch, records)),
      redoLost: (epoch) => call("other", () => this.#db.redoLost(epoch)),
      prove: (epoch, waited) =>
        call("other", () => {
          const before = this.#db.proven;
          const proven = this.#db.prove(epoch, waited);
          if (proven && !before) this.wakeUp();
          return proven;
        }),
      draw: (epoch) => call("other", () => this.#db.draw(epoch)),
      prune: () =>
        call("other", () => {
          this.#db.prune();
          return { auditMonths: 12 };
        }),
      reconnect: () => {},
      onWakeUp: (listener) => void this.#listeners.set(machine, listener),
      close: () => Promise.resolve(),
    };
  }

  /** The methods of AuthorityStore that the simulation uses. `committed` gets the version of each executed commit. */
  store(machine: Machine, committed: (version: number) => void): AuthorityStore {
    const db = this.#db;
    const byId = (id: string) => [...db.tokens.values()].find((row) => row.id === id)!;
    const change = (work: () => Pick<Change<unknown>, "keys" | "kind"> & { token?: TokenRow }) =>
      this.#transaction(machine, committed, () => {
        const { keys, kind, token } = work();
        return { keys, kind, value: { already: keys.length === 0, digest: token?.digest } };
      });
    const store = {
      revokeToken: (id: string) =>
        change(() => {
          const token = byId(id);
          const keys = token.revoked ? [] : [`t${token.digest}`];
          token.revoked = true;
          return { keys, token, kind: "revoked" };
        }),
      updateToken: (id: string, to: { disabled?: boolean; scopes?: readonly string[]; attached?: string }) =>
        change(() => {
          const token = byId(id);
          const same =
            (to.disabled ?? token.disabled) === token.disabled &&
            (to.scopes ?? token.scopes) === token.scopes &&
            (to.attached ?? token.attached) === token.attached;
          const takes =
            to.disabled === true || !token.scopes.every((scope) => (to.scopes ?? token.scopes).includes(scope));
          Object.assign(token, to);
          return { keys: same ? [] : [`t${token.digest}`], token, kind: takes ? "lowered" : "other" };
        }),
      updatePrincipal: (tenant: string, name: string, { state }: { state: "ACTIVE" | "DISABLED" }) =>
        change(() => {
          const row = db.principals.get(principalKey(tenant, name))!;
          const keys = row.state === state ? [] : [principalKey(tenant, name)];
          row.state = state;
          return { keys, kind: state === "ACTIVE" ? "other" : "lowered" };
        }),
      updateTenant: (id: string, { state }: { state: "ACTIVE" | "SUSPENDED" }) =>
        change(() => {
          const row = db.tenants.get(id)!;
          const keys = row.state === state ? [] : [`o${id}`];
          row.state = state;
          return { keys, kind: state === "ACTIVE" ? "other" : "lowered" };
        }),
      updateRole: (_tenant: string, name: string, { scopes }: { scopes: readonly string[] }) =>
        change(() => {
          const role = db.roles.get(name)!;
          const keys = role.scopes.join() === scopes.join() ? [] : [roleKey(name)];
          const takes = !role.scopes.every((scope) => scopes.includes(scope));
          role.scopes = scopes;
          return { keys, kind: takes ? "lowered" : "other" };
        }),
      deleteRole: (_tenant: string, name: string) =>
        change(() => {
          const role = db.roles.get(name)!;
          const keys = role.deleted ? [] : [roleKey(name)];
          role.deleted = true;
          return { keys, kind: "lowered" };
        }),
      detachTenant: (tenant: string, id: string) =>
        change(() => {
          const token = byId(id);
          const keys = token.attached === tenant ? [`t${token.digest}`] : [];
          if (keys.length > 0) token.attached = undefined;
          return { keys, token, kind: "lowered" };
        }),
      cut: (tenant: string, principal: string | undefined) =>
        change(() => {
          if (principal === undefined) db.tenants.get(tenant)!.cut = true;
          else db.principals.get(principalKey(tenant, principal))!.cut = true;
          return { keys: [principal === undefined ? `o${tenant}` : principalKey(tenant, principal)], kind: "cut" };
        }),
    };
    return store as unknown as AuthorityStore;
  }

  async #transaction(
    machine: Machine,
    committed: (version: number) => void,
    work: () => Change<Changed>,
  ): Promise<Committed<Changed>> {
    const { AppError } = this.#product;
    const { random } = this.#world;
    let begun = false;
    let result: (Committed<Changed> & { version: number }) | undefined;
    const unknown = new AppError("OUTCOME_UNKNOWN", "no acknowledgement");
    try {
      await this.#call(machine, "change", 2000, (reply) => {
        begun = true;
        const early = this.#db.begin();
        const commit = () => {
          if (!this.#db.up) return;
          result = this.#db.commit(work, early);
          committed(result.version);
          this.wakeUp();
          reply();
        };
        this.#world.after(random.chance(this.weather.longCommits) ? random.between(0, 400) : 0.3, commit);
        return undefined;
      });
    } catch {
      throw begun ? unknown : new AppError("NOT_DONE", "not sent");
    }
    const { version } = result!;
    if (this.lost.some(({ from, to }) => version >= from && version <= to)) throw unknown;
    this.acknowledged = Math.max(this.acknowledged, version);
    return result!;
  }

  /** `run` answers at once or, if it takes the reply, later or never. */
  #call<T>(machine: Machine, kind: Kind, timeoutMs: number, run: (reply: () => void) => T): Promise<T> {
    const world = this.#world;
    const held = this.#held.findIndex((one) => one.machine === machine && one.kind === kind);
    const { out, back } = held < 0 ? { out: this.#delay(), back: this.#delay() } : this.#held.splice(held, 1)[0]!;
    return new Promise((resolve, reject) => {
      let over = false;
      const end = (finish: () => void) => {
        if (over) return;
        over = true;
        cancel();
        finish();
      };
      const fail = () => end(() => reject(new this.#product.AppError("STORE_UNAVAILABLE", "no answer")));
      const cancel = machine.timers.after(timeoutMs, fail);
      world.after(out, () => {
        if (machine.cutOff) return;
        if (!this.#db.up) return void world.after(back, fail, machine);
        const answer = (value: T) =>
          world.after(back, () => (machine.cutOff ? undefined : end(() => resolve(value))), machine);
        let value: T | undefined;
        value = run(() => answer(value as T));
        if (run.length === 0) answer(value);
      });
    });
  }

  #delay(): number {
    const { random } = this.#world;
    return random.chance(this.weather.slow) ? random.between(20, 480) : random.between(0.2, 2);
  }
}
