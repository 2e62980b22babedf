import { expect, test } from "vitest";
import { TrustedProxies } from "../../src/services/client-address.ts";
import type { Peer } from "../../src/services/peer.ts";

const peer = (address: string, from: Peer["from"] = "remote"): Peer => ({
  door: "admin",
  address,
  from,
  sans: [],
  sanAllowed: false,
});
const proxies = new TrustedProxies(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"]);

test("behind trusted proxies the right-most hop that is none of them is the client", () => {
  expect(proxies.behind(peer("127.0.0.1", "loopback"), "198.51.100.7, 203.0.113.9, 10.1.2.3")).toMatchObject({
    address: "203.0.113.9",
    from: "remote",
  });
  expect(proxies.behind(peer("2001:db8::1"), "203.0.113.9")).toMatchObject({ address: "203.0.113.9" });
});

test("a client of a proxy on this machine is no local client, whatever the header holds", () => {
  for (const header of [null, "", "10.1.1.1", "junk, 10.1.1.1", "unknown"]) {
    expect(proxies.behind(peer("127.0.0.1", "loopback"), header).from).toBe("remote");
  }
});

test("from anybody else the header counts for nothing", () => {
  expect(proxies.behind(peer("203.0.113.1"), "198.51.100.7")).toEqual(peer("203.0.113.1"));
  expect(new TrustedProxies([]).behind(peer("127.0.0.1", "loopback"), "198.51.100.7")).toEqual(
    peer("127.0.0.1", "loopback"),
  );
});
