import { expect, test } from "vitest";
import { StartError } from "../../src/domain/start-error.ts";

test("a StartError carries every problem, and the exit code of its kind", () => {
  const error = new StartError("config_invalid", ["a: wrong", "b: missing"], new Error("cause"));
  expect(error).toMatchObject({ exitCode: 78, problems: ["a: wrong", "b: missing"], message: "a: wrong\nb: missing" });
  expect(error.cause).toBeInstanceOf(Error);
  expect(new StartError("database_unavailable", "away")).toMatchObject({ exitCode: 69, problems: ["away"] });
  expect(new StartError("migration_failed", "x").exitCode).toBe(70);
});
