import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { type Admission, type AdmissionClass, createAdmission } from "../../src/rpc/admission.ts";

let now = 0;
let shed: AdmissionClass[] = [];
let admission: Admission;
let busy = 0;
let memory = 0;
const pass = (ms: number) => {
  now += ms;
  vi.advanceTimersByTime(ms);
};
beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "setInterval", "clearTimeout", "clearInterval"] });
  now = 0;
  busy = 0;
  memory = 0;
  shed = [];
  admission = createAdmission({
    clock: { mono: () => now },
    concurrency: { validate: 4, admin: 10, health: 2 },
    onShed: (klass) => shed.push(klass),
    utilization: () => busy,
    memory: () => memory,
  });
});
afterEach(() => {
  admission.close();
  vi.useRealTimers();
});

const enter = (klass: AdmissionClass, weight = 1, left = 10_000) => admission.enter(klass, weight, left);
const settled = async (entry: ReturnType<typeof enter>): Promise<string> =>
  Promise.race([
    Promise.resolve(entry).then(
      () => "in",
      (error: AppError) => error.reason,
    ),
    Promise.resolve()
      .then(() => Promise.resolve())
      .then(() => Promise.resolve())
      .then(() => "waiting"),
  ]);

describe("admission", () => {
  test("sheds calls that need memory while little is left, but never health or a revocation", async () => {
    memory = 0.86;
    pass(200);
    for (const klass of ["validate", "admin"] as const) expect(() => enter(klass)).toThrow(/overloaded/);
    for (const klass of ["health", "revoke"] as const) expect(await settled(enter(klass))).toBe("in");
    memory = 0.84;
    pass(200);
    for (const klass of ["validate", "admin"] as const) expect(await settled(enter(klass))).toBe("in");
  });

  test("admits a call without a promise while there is room", () => {
    expect(typeof enter("validate", 4)).toBe("function");
  });

  test("a batch weighs as many units as it has entries, and one larger than all units still gets its turn", async () => {
    const leave = enter("validate", 100) as () => void;
    const next = enter("validate");
    expect(await settled(next)).toBe("waiting");
    leave();
    expect(await settled(next)).toBe("in");
  });

  test("a call that waits longer than 50 ms is shed with RetryInfo, and counted", async () => {
    void enter("validate", 4);
    const late = enter("validate") as Promise<() => void>;
    const refused = late.then(
      () => undefined,
      (error: AppError) => error,
    );
    pass(60);
    expect(await refused).toMatchObject({ reason: "OVERLOADED", retryAfterMs: 1_000 });
    expect(shed).toEqual(["validate"]);
  });

  test("the 51st call in the queue is shed at once", async () => {
    void enter("validate", 4);
    const waiting = Array.from({ length: 50 }, () => enter("validate") as Promise<() => void>);
    for (const one of waiting) one.catch(() => {});
    await expect(enter("validate")).rejects.toMatchObject({ reason: "OVERLOADED" });
    expect(shed).toHaveLength(1);
  });

  test("is first come first served while the queue is fresh, newest first when it is old", async () => {
    const order: string[] = [];
    const queue = (name: string) =>
      void (enter("validate") as Promise<() => void>).then(
        () => order.push(name),
        () => {},
      );
    let leave = enter("validate", 4) as () => void;
    queue("a");
    queue("b");
    leave();
    await Promise.resolve();
    expect(order).toEqual(["a", "b"]);
    admission.close();
    admission = createAdmission({ clock: { mono: () => now }, concurrency: { validate: 1 }, onShed: () => {} });
    leave = enter("validate") as () => void;
    queue("old");
    pass(25);
    queue("new");
    leave();
    await Promise.resolve();
    expect(order).toEqual(["a", "b", "new"]);
  });

  test("keeps slots for revocations, and lets them pass every other call in the queue", async () => {
    const leaves = Array.from({ length: 9 }, () => enter("admin") as () => void);
    const create = enter("admin");
    expect(await settled(create)).toBe("waiting");
    expect(typeof enter("revoke")).toBe("function");
    const revoke = enter("revoke");
    expect(await settled(revoke)).toBe("waiting");
    leaves[0]!();
    expect(await settled(revoke)).toBe("in");
    expect(await settled(create)).toBe("waiting");
    (create as Promise<unknown>).catch(() => {});
  });

  test("a revocation takes the place of another call in a full queue", async () => {
    for (let i = 0; i < 9; i++) void enter("admin");
    void enter("revoke");
    const others = Array.from({ length: 50 }, () => enter("admin") as Promise<() => void>);
    for (const one of others) one.catch(() => {});
    const revoke = enter("revoke");
    expect(await settled(revoke)).toBe("waiting");
    expect(shed).toEqual(["admin"]);
    (revoke as Promise<unknown>).catch(() => {});
  });

  test("sheds a call with less than 5 ms to its deadline", () => {
    expect(() => enter("validate", 1, 4)).toThrow(AppError);
  });

  test("sheds while the event loop is late, but never health or a revocation", () => {
    for (let i = 0; i < 2; i++) {
      now += 200; // a pause that no timer could run in
      pass(20);
    }
    expect(() => enter("validate")).toThrow(AppError);
    expect(() => enter("admin")).toThrow(AppError);
    expect(typeof enter("health")).toBe("function");
    expect(typeof enter("revoke")).toBe("function");
    pass(1_100);
    expect(typeof enter("validate")).toBe("function");
  });

  test("one pause is not overload", () => {
    now += 500;
    pass(20);
    expect(typeof enter("validate")).toBe("function");
  });

  test("a busy event loop that keeps up sheds nothing", () => {
    busy = 1;
    pass(1_000);
    expect(typeof enter("validate")).toBe("function");
  });

  test("an admitted call returns its units only once", async () => {
    const leave = enter("validate", 4) as () => void;
    leave();
    leave();
    expect(typeof enter("validate", 4)).toBe("function");
    expect(await settled(enter("validate"))).toBe("waiting");
  });
});
