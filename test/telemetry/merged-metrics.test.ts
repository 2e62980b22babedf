import { expect, test } from "vitest";
import { MergedMetrics } from "../../src/telemetry/merged-metrics.ts";
import { createTelemetry } from "../../src/telemetry/telemetry.ts";

const telemetry = () => createTelemetry("silent", { write() {} });
const value = (page: string, series: string) =>
  Number(
    page
      .split("\n")
      .find((line) => line.startsWith(`${series} `))
      ?.split(" ")[1],
  );

test("counts are added, ages are the oldest, and the counts of a process that ended stay", async () => {
  const [own, one, other] = [telemetry(), telemetry(), telemetry()];
  const merged = new MergedMetrics();
  const report = async (process: number, of: typeof one) =>
    merged.reported(process, await of.registry.getMetricsAsJSON());
  for (const each of [own, one, other]) each.runs({ version: "1", commit: "c" }, 1.5);
  const answered = other.answered("ValidateToken");
  for (let i = 0; i < 3; i++) answered();
  one.shed("validate");
  other.shed("validate");
  own.lease(0.1);
  other.lease(0.7);
  for (const each of [one, other]) each.forListener("data").validated("ALLOW", undefined, "l1", 0.000_001);
  other.certificate("data", 100);
  one.certificate("data", 90);
  await report(1, one);
  await report(2, other);
  const check = async (shed: number, allowed: number) => {
    const page = await merged.page(own.registry);
    expect(value(page, 'sallyport_shed_total{class="validate"}')).toBe(shed);
    expect(value(page, 'sallyport_rpc_total{method="ValidateToken",code="OK"}')).toBe(3);
    expect(value(page, 'sallyport_validation_seconds_bucket{le="0.000005",tier="l1"}')).toBe(allowed);
    expect(value(page, 'sallyport_validation_seconds_count{tier="l1"}')).toBe(allowed);
    expect(value(page, 'sallyport_build_info{version="1",commit="c"}')).toBe(1);
    return page;
  };
  const page = await check(2, 2);
  expect(value(page, "sallyport_lease_age_seconds")).toBe(0.7);
  expect(value(page, 'sallyport_certificate_expire_time_seconds{listener="data"}')).toBe(90);
  expect(value(page, "process_start_time_seconds")).toBeGreaterThan(1e9);

  merged.ended(2);
  expect(value(await check(2, 2), "sallyport_lease_age_seconds")).toBe(0.1);
  // Another takes its place, and ends too.
  const third = telemetry();
  third.shed("validate");
  third.forListener("data").validated("ALLOW", undefined, "l1", 0.000_001);
  await report(3, third);
  await check(3, 3);
  merged.ended(3);
  await check(3, 3);
});
