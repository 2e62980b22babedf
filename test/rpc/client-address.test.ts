import { expect, test } from "vitest";
import { addressOfHop, TrustedProxies } from "../../src/rpc/client-address.ts";
import type { Peer } from "../../src/rpc/peer.ts";

const peer = (address: string, from: Peer["from"] = "remote"): Peer => ({
  listener: "admin",
  address,
  from,
  sans: [],
  sanAllowed: false,
});
const proxies = new TrustedProxies(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"]);

test("behind trusted proxies, the right-most hop that is not one of them is the client", () => {
  expect(proxies.behind(peer("127.0.0.1", "loopback"), "198.51.100.7, 203.0.113.9, 10.1.2.3")).toMatchObject({
    address: "203.0.113.9",
    from: "remote",
  });
  expect(proxies.behind(peer("2001:db8::1"), "203.0.113.9")).toMatchObject({ address: "203.0.113.9" });
});

test.each([
  ["203.0.113.9:51234", "203.0.113.9"],
  ["[2001:db9::5]:443", "2001:db9::5"],
  ["[2001:db9::5]", "2001:db9::5"],
  ["2001:db9::5", "2001:db9::5"],
  ["198.51.100.7, 203.0.113.9:1 , 10.1.2.3:65535, [2001:db8::9]:1", "203.0.113.9"],
])("a hop may have a port: %s", (header, address) => {
  expect(proxies.behind(peer("127.0.0.1", "loopback"), header)).toMatchObject({ address, from: "remote" });
});

test.each(["203.0.113.9:", "203.0.113:1", "[203.0.113.9", "[::1]x", "256.1.1.1:1", "[fe80::g]:1", "_hidden", ""])(
  "what is no address is none: %j",
  (hop) => {
    expect(addressOfHop(` ${hop} `)).toBe(hop);
    expect(proxies.behind(peer("127.0.0.1", "loopback"), hop)).toEqual(peer("127.0.0.1"));
  },
);

test("with more hops than any real chain of proxies, the search for the client ends", () => {
  const header = `203.0.113.9${", 10.0.0.1".repeat(40)}`;
  expect(proxies.behind(peer("127.0.0.1", "loopback"), header)).toEqual(peer("127.0.0.1"));
});

test("a client of a proxy on this machine never counts as local, whatever the header holds", () => {
  for (const header of [null, "", "10.1.1.1", "junk, 10.1.1.1", "unknown"]) {
    expect(proxies.behind(peer("127.0.0.1", "loopback"), header).from).toBe("remote");
  }
});

test("the header of an untrusted peer is ignored", () => {
  expect(proxies.behind(peer("203.0.113.1"), "198.51.100.7")).toEqual(peer("203.0.113.1"));
  expect(new TrustedProxies([]).behind(peer("127.0.0.1", "loopback"), "198.51.100.7")).toEqual(
    peer("127.0.0.1", "loopback"),
  );
});
