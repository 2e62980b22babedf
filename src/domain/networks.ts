import { BlockList, isIP } from "node:net";

/** The first six groups of an IPv4 address in IPv6 form. */
const MAPPED = [0, 0, 0, 0, 0, 0xffff];

/** The address that stands for a caller on this machine, which has no network address. */
export const LOCAL_ADDRESS = "127.0.0.1";

const lists = new WeakMap<readonly string[], BlockList>();

/** True if the address lies in one of the networks. An unknown address lies in none. The list must not change. */
export function addressAllowed(cidrs: readonly string[], address: string): boolean {
  const family = isIP(address);
  if (family === 0) return false;
  let list = lists.get(cidrs);
  if (list === undefined) {
    list = blockList(cidrs);
    lists.set(cidrs, list);
  }
  return list.check(address, family === 6 ? "ipv6" : "ipv4");
}

/** True if the text is an IP address, without a zone. */
export function isAddress(text: string): boolean {
  return isIP(text) !== 0 && !text.includes("%");
}

/** True if the text is an IP address or a network in CIDR form. */
export function isCidr(text: string): boolean {
  const [net = "", bits, more] = text.split("/");
  if (!isAddress(net) || more !== undefined) return false;
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (isIP(net) === 6 ? 128 : 32));
}

/** Builds a list of networks that `isCidr` accepts. */
function blockList(cidrs: readonly string[]): BlockList {
  const list = new BlockList();
  for (const cidr of cidrs) {
    const { net, bits, family } = partsOf(cidr);
    list.addSubnet(net, bits, family);
  }
  return list;
}

/**
 * The key under which limits count an address. An IPv4 address counts as itself, also in IPv6 form. Any other IPv6
 * address counts as its network, since one household has the whole network. Any other text stays as it is.
 */
export function countedNetwork(address: string, ipv6PrefixLength: number): string {
  if (isIP(address) !== 6) return address;
  const groups = groupsOf(address);
  if (MAPPED.every((group, i) => groups[i] === group)) {
    return [groups[6]! >> 8, groups[6]! & 255, groups[7]! >> 8, groups[7]! & 255].join(".");
  }
  const kept = groups.map((group, i) => {
    const bits = Math.max(0, Math.min(16, ipv6PrefixLength - 16 * i));
    return group & (0xffff << (16 - bits)) & 0xffff;
  });
  return `${kept.map((group) => group.toString(16)).join(":")}/${ipv6PrefixLength}`;
}

/** The eight groups of an IPv6 address that `isIP` accepts, without its zone. */
function groupsOf(address: string): number[] {
  const text = address
    .split("%", 1)[0]!
    .replace(/(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/, (_, ...bytes: string[]) => {
      const [a = 0, b = 0, c = 0, d = 0] = bytes.slice(0, 4).map(Number);
      return `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
    });
  const [head = "", tail] = text.split("::");
  const parse = (part: string) => (part === "" ? [] : part.split(":").map((group) => Number.parseInt(group, 16)));
  const before = parse(head);
  const after = tail === undefined ? [] : parse(tail);
  return [...before, ...new Array(8 - before.length - after.length).fill(0), ...after];
}

/** True if every network of `inner` lies in one of `outer`. A list without entries allows every address. */
export function networksWithin(inner: readonly string[], outer: readonly string[]): boolean {
  if (outer.length === 0) return true;
  return inner.length > 0 && inner.every((one) => outer.some((other) => lies(one, other)));
}

function lies(inner: string, outer: string): boolean {
  const small = partsOf(inner);
  const large = partsOf(outer);
  if (large.length > small.length) return false;
  return blockList([outer]).check(small.net, small.family);
}

/** `length` counts in IPv6 bits, so that both families compare. */
function partsOf(cidr: string) {
  const [net = "", text] = cidr.split("/");
  const family = isIP(net) === 6 ? ("ipv6" as const) : ("ipv4" as const);
  const bits = text === undefined ? (family === "ipv6" ? 128 : 32) : Number(text);
  return { net, family, bits, length: family === "ipv6" ? bits : bits + 96 };
}
