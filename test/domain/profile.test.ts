import { expect, test } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { profilesOf } from "../../src/config/profiles.ts";
import { BUILT_IN_PROFILES } from "../../src/domain/profile.ts";

const configured = (profiles: object) =>
  profilesOf(
    loadConfig(undefined, {
      SALLYPORT_PROFILES: undefined,
      ...Object.fromEntries(
        Object.entries(profiles).map(([path, value]) => [`SALLYPORT_PROFILES__${path.toUpperCase()}`, value]),
      ),
    }),
  );

test("without configuration there are five profiles, each with its own prefix", () => {
  const all = [...configured({}).values()];
  expect(all).toEqual(BUILT_IN_PROFILES);
  expect(new Set(all.map(({ prefix }) => prefix)).size).toBe(5);
});

test("only adm tokens are administrative, whatever an operator configures", () => {
  const all = configured({ bot__max_ttl: "1d", own__principals: "[bot]", adm__max_ttl: "1h" });
  expect([...all.values()].filter(({ administrative }) => administrative).map(({ name }) => name)).toEqual(["adm"]);
  expect(all.get("bot")?.maxTtl).toBe(86_400_000);
  expect(all.get("bot")?.prefix).toBe("sp_bot");
  expect(all.get("own")).toMatchObject({ name: "own", prefix: "sp_own", principals: ["bot"] });
});

test("ceilings of the configuration are added to the built-in one", () => {
  const file = configured({ pat__scope_ceilings: '{"deploy:prod": "10m"}' });
  expect(file.get("pat")?.scopeCeilings).toEqual({ bootstrap: 3_600_000, "deploy:prod": 600_000 });
});
