import { Agent } from "node:http";
import { expect, test } from "vitest";
import { type Ask, ask, bearer, type Header } from "./ask.ts";
import type { Edge } from "./edge.ts";
import type { Stage } from "./stage.ts";
import type { Suite } from "./suites.ts";

/** What a check may take at most, and what a busy machine may add: the best of some tries has to keep to it. */
const CLOSED_MS = 300;

/** What a proxy does while Sallyport does not answer, and afterwards. */
export function failures(its: Suite, stage: () => Stage): void {
  const good = (): Ask => ({ headers: [bearer(stage().scene.tokens.good)] });
  const best = async (tries: number, status: number) => {
    const times: number[] = [];
    for (let i = 0; i < tries; i++) {
      const reply = await ask(stage().edge.port, good());
      expect([reply.status, reply.seen]).toEqual([status, undefined]);
      times.push(reply.ms);
    }
    return Math.min(...times);
  };

  test("a check that hangs denies the request", async () => {
    const { edge, scene } = stage();
    await scene.frozen(async () => expect(await best(3, its.hung)).toBeLessThan(CLOSED_MS));
    await scene.healed();
    await recovers(edge);
  });

  test("a dead Sallyport denies requests, and a new one answers again", async () => {
    const { edge, scene } = stage();
    await scene.kill();
    const until = performance.now() + its.noticesDeathMs;
    while (performance.now() < until) expect((await ask(edge.port, good())).status).toBe(its.dead);
    expect(await best(5, its.dead)).toBeLessThan(50);
    await scene.restart();
    if (its.noticesDeathMs > 0) await recovers(edge);
    expect((await ask(edge.port, good())).status).toBe(200);
  });

  /** A proxy that watches its backend asks it again within a second. */
  async function recovers(edge: Edge): Promise<void> {
    for (const end = performance.now() + 5_000; performance.now() < end; ) {
      if ((await ask(edge.port, good())).status === 200) return;
    }
    throw new Error("the proxy does not ask again");
  }
}

/** Rounds of the promise. */
const ROUNDS = Number(process.env["PROXY_ROUNDS"] ?? 1_000);

export function revocation(stage: () => Stage): void {
  test("revocation holds through the proxy", { timeout: 240_000 }, async () => {
    const { edge, scene } = stage();
    const { admin } = scene;
    let left = ROUNDS;
    let undetermined = 0;
    const wrong: string[] = [];
    const lane = async () => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      /** A busy machine can be too late to judge: that is a denial, and is asked again. */
      const judged = async (headers: readonly Header[]) => {
        let reply = await ask(edge.port, { headers, agent });
        for (let i = 0; i < 20 && reply.status >= 500; i++) {
          undetermined++;
          reply = await ask(edge.port, { headers, agent });
        }
        return reply.status;
      };
      while (left-- > 0) {
        const { id, tokenString } = await scene.mint();
        const before = await judged([bearer(tokenString)]);
        await admin.tokens.revokeToken({ target: { case: "id", value: id } });
        const after = await judged([bearer(tokenString)]);
        if (before !== 200 || after !== 401) wrong.push(`${id} ${before} ${after}`);
      }
      agent.destroy();
    };
    await Promise.all(Array.from({ length: 8 }, lane));
    expect(wrong).toEqual([]);
    expect(undetermined / ROUNDS).toBeLessThan(0.05);
  });
}
