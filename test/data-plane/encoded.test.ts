import { expect, test } from "vitest";
import { Encoded } from "../../src/data-plane/encoded.ts";

test("the message is the same before and after its replies are built, in either order", () => {
  const message = Buffer.from([8, 1]);
  for (const order of [
    ["grpc", "connect-proto"],
    ["connect-proto", "grpc"],
  ] as const) {
    const encoded = new Encoded(message);
    for (const protocol of order) {
      const { body } = encoded.reply({ protocol });
      expect([...body]).toEqual(protocol === "grpc" ? [0, 0, 0, 0, 2, ...message] : [...message]);
      expect([...encoded.bytes]).toEqual([...message]);
      expect(encoded.reply({ protocol })).toBe(encoded.reply({ protocol }));
    }
  }
});

test("an empty message has replies, too", () => {
  const encoded = new Encoded(Buffer.alloc(0));
  expect([...encoded.reply({ protocol: "grpc" }).body]).toEqual([0, 0, 0, 0, 0]);
  expect([...encoded.reply({ protocol: "connect-proto" }).body]).toEqual([]);
});
