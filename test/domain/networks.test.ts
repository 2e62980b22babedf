import { expect, test } from "vitest";
import { schema } from "../../src/config/schema.ts";
import { checkCidrs } from "../../src/domain/issue.ts";
import { addressAllowed, countedNetwork, networksWithin } from "../../src/domain/networks.ts";
import { TrustedProxies } from "../../src/rpc/client-address.ts";

const accepts = (read: () => unknown): boolean => {
  try {
    read();
    return true;
  } catch {
    return false;
  }
};

test.each([
  ["10.0.0.0/8", true],
  ["10.0.0.1", true],
  ["2001:db8::/32", true],
  ["::/0", true],
  ["10.0.0.0/33", false],
  ["::/129", false],
  ["10.0.0.0/", false],
  ["10.0.0.0/8/8", false],
  ["10.0.0", false],
  ["fe80::1%eth0", false],
  ["fe80::%eth0/64", false],
  ["localhost", false],
])("the network %s of a token and of a setting is accepted: %s", (text, good) => {
  const setting = () => schema.parse({ listeners: { admin: { trusted_proxies: [text] } } });
  expect([accepts(() => checkCidrs([text])), accepts(setting)]).toEqual([good, good]);
});

test.each([
  ["10.0.0.0/8", "10.1.2.3", true],
  ["10.0.0.0/8", "::ffff:10.1.2.3", true],
  ["10.0.0.0/8", "11.1.2.3", false],
  ["2001:db8::/32", "2001:db8:1::1", true],
  ["::1", "::1", true],
  ["10.0.0.1", "", false],
  ["10.0.0.1", "localhost", false],
])("a token and a trusted proxy agree on whether %s holds %j: %s", (network, address, held) => {
  const peer = { listener: "admin", address, from: "remote", sans: [], sanAllowed: false } as const;
  const { address: client } = new TrustedProxies([network]).behind(peer, "192.0.2.1");
  expect([addressAllowed([network], address), client === "192.0.2.1"]).toEqual([held, held]);
});

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

test("for every prefix length, addresses of one network count as one, and addresses of two networks as two", () => {
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
