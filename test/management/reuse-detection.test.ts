import { expect, test } from "vitest";
import type { AuditAct } from "../../src/domain/audit-event.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";
import type { Token } from "../../src/domain/token.ts";
import { ReuseDetection } from "../../src/management/reuse-detection.ts";

/** Signals over a store with one token, with a clock that stands still; `ring` fires what is due. */
function signals(onReuse: "audit" | "revoke-family" = "audit") {
  const acts: AuditAct[] = [];
  const revoked: string[] = [];
  const due = new Map<symbol, () => void>();
  const token = { id: "tok_1", tenant: "acme", principal: "bot:ci", profile: "bot", rotatedTo: "tok_2" } as Token;
  const profile = { ...BUILT_IN_PROFILES.find(({ name }) => name === "bot")!, onReuse };
  const reuse = new ReuseDetection({
    store: { get: async (id: string) => (id === "tok_1" ? token : undefined) } as never,
    audit: { append: async (_actor, act) => void acts.push(act), list: async () => ({ rows: [] }) },
    authority: {
      change: async (work: (store: never) => Promise<unknown>) =>
        work({ revokeToken: async (id: string, family: boolean) => revoked.push(`${id} ${family}`) } as never),
    } as never,
    profiles: new Map([["bot", profile]]),
    timers: {
      after(_ms, run) {
        const key = Symbol();
        due.set(key, run);
        return () => due.delete(key);
      },
    },
    events: { audited: () => {}, trouble: () => {} } as never,
  });
  return { reuse, acts, revoked, due };
}

test("the first use of a rotated string is audited at once, further uses within a minute in one row", async () => {
  const { reuse, acts, due } = signals();
  for (let i = 0; i < 5; i++) reuse.seen("tok_1");
  await expect.poll(() => acts.length).toBe(1);
  expect(acts[0]).toEqual({
    tenant: "acme",
    action: "token.reuse",
    target: "token:tok_1",
    owner: "bot:ci",
    outcome: "DENIED",
    metadata: { uses: "1", rotated_to: "tok_2" },
  });
  for (const run of due.values()) run();
  await expect.poll(() => acts.length).toBe(2);
  expect(acts[1]?.metadata).toEqual({ uses: "4", rotated_to: "tok_2" });
  reuse.seen("tok_1");
  await expect.poll(() => acts.length).toBe(3);
});

test("a stop audits the counted uses, and leaves no timer that would keep the process alive", async () => {
  const { reuse, acts, due } = signals();
  reuse.seen("tok_1");
  reuse.seen("tok_1");
  reuse.seen("tok_unknown");
  await reuse.stop();
  expect(acts.map(({ metadata }) => metadata["uses"])).toEqual(["1", "1"]);
  expect(due.size).toBe(0);
});

test("the family is revoked if the profile says so, and left alone otherwise", async () => {
  const strict = signals("revoke-family");
  strict.reuse.seen("tok_1");
  await strict.reuse.stop();
  expect(strict.revoked).toEqual(["tok_1 true"]);
  const mild = signals();
  mild.reuse.seen("tok_1");
  await mild.reuse.stop();
  expect(mild.revoked).toEqual([]);
});
