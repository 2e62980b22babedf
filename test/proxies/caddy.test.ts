import { expect, test } from "vitest";
import { arrived, ask, bearer } from "./ask.ts";
import { core, suite } from "./cases.ts";
import { describeWith, prepare } from "./stage.ts";
import { caddy } from "./suites.ts";

const old = { ...caddy, program: "caddy-debian" };
await prepare(caddy);
await prepare(old);
suite("caddy", caddy);

describeWith("old versions: caddy 2.6", old, (stage) => {
  core(old, stage);

  test("no placeholder arrives unreplaced, even if the ALLOW omits a header", async () => {
    const { changed, scene } = stage();
    await changed({ changes: [old.policy("lean")] }, async ({ port }) => {
      const reply = await ask(port, { headers: [bearer(scene.tokens.good)] });
      expect([reply.status, arrived(reply, "x-auth-profile")]).toEqual([200, ["-"]]);
      expect(JSON.stringify(reply.seen)).not.toContain("{http");
    });
  });
});
