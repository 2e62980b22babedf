import { expect, test } from "vitest";
import { countedNetwork, networksWithin } from "../../src/domain/networks.ts";

test.each([
  ["192.0.2.7", "192.0.2.7"],
  ["::ffff:192.0.2.7", "192.0.2.7"],
  ["::ffff:c000:207", "192.0.2.7"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2:0:0:0:0/64"],
  ["2001:db8:1:2::", "2001:db8:1:2:0:0:0:0/64"],
  ["2001:DB8:1:2:ffff::1", "2001:db8:1:2:0:0:0:0/64"],
  ["fe80::1%eth0", "fe80:0:0:0:0:0:0:0/64"],
  ["::1", "0:0:0:0:0:0:0:0/64"],
  ["", ""],
])("%s counts as %s", (address, counted) => {
  expect(countedNetwork(address, 64)).toBe(counted);
});

test("of every length, addresses of one network count as one, and of two as two", () => {
  expect(countedNetwork("2001:db8:ffff::", 33)).toBe("2001:db8:8000:0:0:0:0:0/33");
  expect(countedNetwork("2001:db8::1", 128)).not.toBe(countedNetwork("2001:db8::2", 128));
  expect(countedNetwork("2001:db8::2", 127)).toBe(countedNetwork("2001:db8::3", 127));
  expect(countedNetwork("::ffff:192.0.2.7", 1)).toBe("192.0.2.7");
});

test.each<[string[], string[], boolean]>([
  [[], [], true],
  [["10.0.0.1"], [], true],
  [[], ["10.0.0.0/8"], false],
  [["10.1.0.0/16", "10.2.3.4"], ["10.0.0.0/8"], true],
  [["10.0.0.0/7"], ["10.0.0.0/8"], false],
  [["10.0.0.1", "11.0.0.1"], ["10.0.0.0/8"], false],
  [["10.5.6.7/8"], ["10.0.0.0/8"], true],
  [["2001:db8::/48"], ["2001:db8::/32"], true],
  [["2001:db8::/31"], ["2001:db8::/32"], false],
  [["::ffff:10.0.0.1"], ["10.0.0.0/8"], true],
  [["::ffff:10.0.0.0/100"], ["10.0.0.0/8"], false],
  [["0.0.0.0/0"], ["10.0.0.0/8", "::/0"], true],
  [["::/0"], ["0.0.0.0/0"], false],
])("%j within %j: %s", (inner, outer, is) => {
  expect(networksWithin(inner, outer)).toBe(is);
});
