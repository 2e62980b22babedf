import { expect, test } from "vitest";
import type { AuditAct, AuditActor } from "../../src/domain/audit-event.ts";
import type { Access, Reach } from "../../src/management/access.ts";
import { Repeats } from "../../src/management/repeats.ts";

const access = (principal: string, reach: Reach = "own", by = "token:x", address = ""): Access =>
  ({ caller: { tenant: "acme", principal, provenance: by, address, scopes: [] }, reach, requestId: "" }) as never;

/** Repeats by a clock that stands still; `ring` ends the windows. */
function counted() {
  const clock = { now: 0, mono: () => clock.now };
  const acts: AuditAct[] = [];
  const actors: AuditActor[] = [];
  const due = new Map<symbol, () => void>();
  const repeats = new Repeats({
    clock,
    timers: {
      after(_ms, run) {
        const key = Symbol();
        due.set(key, run);
        return () => due.delete(key);
      },
    },
    audit: {
      async append(actor, act) {
        actors.push(actor);
        acts.push(act);
      },
    },
    events: { trouble: () => {} },
  });
  /** One call that changes nothing: whether it has a row, or how it is refused. */
  const call = (who: Access, action = "token.revoke") => {
    try {
      return repeats.actors(who, action)().repeats?.();
    } catch (error) {
      return error;
    }
  };
  const calls = (who: Access, tries: number) => Array.from({ length: tries }, () => call(who));
  const admitted = (who: Access) => calls(who, 100).filter((end) => typeof end === "boolean").length;
  const ring = () => {
    for (const run of due.values()) run();
  };
  return { repeats, clock, acts, actors, due, call, calls, admitted, ring };
}

const REFUSED = { reason: "LIMIT_EXCEEDED", retryAfterMs: 1_000 };

test("calls that change nothing are limited to one a second for each principal, after the first ten", () => {
  const { clock, call, admitted } = counted();
  expect(admitted(access("user:a"))).toBe(10);
  expect(call(access("user:a"))).toMatchObject(REFUSED);
  expect(call(access("user:a"), "token.rotate")).toMatchObject(REFUSED);
  expect(admitted(access("user:b"))).toBe(10);
  clock.now += 1_000;
  expect(admitted(access("user:a"))).toBe(1);
  clock.now += 60_000;
  expect(admitted(access("user:a"))).toBe(10);
});

test("for each action, the first repeat of a minute has its own audit row, and further ones share one", async () => {
  const { calls, call, acts, ring, due } = counted();
  expect(calls(access("user:a"), 4)).toEqual([true, false, false, false]);
  expect(call(access("user:a"), "token.rotate")).toBe(true);
  expect(call(access("user:b"))).toBe(true);
  ring();
  await expect
    .poll(() => acts)
    .toEqual([
      {
        tenant: "acme",
        action: "token.revoke",
        target: "principal:user:a",
        owner: "user:a",
        outcome: "OK",
        metadata: { repeat: "true", merged: "3" },
      },
    ]);
  expect(due.size).toBe(0);
  expect(call(access("user:a"))).toBe(true);
});

test("repeats by another caller of the same principal, and refused repeats, have their own audit rows", async () => {
  const { repeats, call, acts, actors, ring } = counted();
  const [first, second] = [access("user:a"), access("user:a", "own", "token:y", "192.0.2.1")];
  expect([call(first), call(second), call(second)]).toEqual([true, true, false]);
  const denied = (who: Access) => repeats.actors(who, "token.revoke")().repeats?.("DENIED");
  expect([denied(first), denied(first), denied(access("user:a", "own", "token:x", "192.0.2.2"))]).toEqual([
    true,
    false,
    false,
  ]);
  ring();
  await expect.poll(() => acts.map(({ outcome }) => outcome)).toEqual(["OK", "DENIED"]);
  expect(actors).toMatchObject([
    { actor: "token:y", address: "192.0.2.1" },
    // From two addresses.
    { actor: "token:x", address: "" },
  ]);
});

test("a stop writes the audit row of the counted repeats, and leaves no timer", async () => {
  const { repeats, calls, acts, due } = counted();
  calls(access("user:a"), 2);
  await repeats.stop();
  expect(acts.map(({ metadata }) => metadata["merged"])).toEqual(["1"]);
  expect(due.size).toBe(0);
});

test("a retried transaction is the same repeat, and a later run of the same call is no repeat", () => {
  const { repeats, calls } = counted();
  const actors = repeats.actors(access("user:a"), "token.revoke");
  const first = actors();
  expect([first.repeats?.(), first.repeats?.()]).toEqual([true, true]);
  calls(access("user:a"), 100);
  expect(actors().repeats?.()).toBe(false);
});

test("a call that is known to change nothing is refused without asking the database", () => {
  const { repeats, calls } = counted();
  const known = () => repeats.actors(access("user:a"), "token.revoke", true);
  expect(known()().repeats?.()).toBe(true);
  expect(known()().repeats?.()).toBe(false);
  calls(access("user:a"), 8);
  expect(known).toThrowError(expect.objectContaining(REFUSED));
});

test("a caller that may act for others has no limit, and an audit row for each repeat", () => {
  const { calls } = counted();
  expect(calls(access("user:a", "tenant"), 100).every((end) => end === undefined)).toBe(true);
});
