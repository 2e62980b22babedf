import { expect, test } from "vitest";
import { parseConnectTimeout, parseGrpcTimeout } from "../../src/http2/unary/timeout.ts";

test.each([
  ["1H", 3_600_000],
  ["2M", 120_000],
  ["3S", 3_000],
  ["200m", 200],
  ["1500u", 1.5],
  ["99999999n", 99.999999],
  ["0m", 0],
])("grpc-timeout %s is %d ms", (text, ms) => {
  expect(parseGrpcTimeout(text)).toBeCloseTo(ms, 9);
});

test.each(["", "1", "m", "-1m", "1.5S", "123456789m", "1 m", "1x", "1mm", "0x1m"])(
  "grpc-timeout %j is none",
  (text) => {
    expect(parseGrpcTimeout(text)).toBeNaN();
  },
);

test.each([
  ["0", 0],
  ["9999999999", 9_999_999_999],
])("connect-timeout-ms %s is %d ms", (text, ms) => {
  expect(parseConnectTimeout(text)).toBe(ms);
});

test.each(["", "-1", "1s", "12345678901", "1.0"])("connect-timeout-ms %j is none", (text) => {
  expect(parseConnectTimeout(text)).toBeNaN();
});
