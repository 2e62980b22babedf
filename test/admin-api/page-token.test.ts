import fc from "fast-check";
import { expect, test } from "vitest";
import { PageTokens } from "../../src/admin-api/page-token.ts";
import { Keyring } from "../../src/domain/keyring.ts";

const pepper = (fill: number) => Buffer.alloc(32, fill).toString("base64");
const pages = new PageTokens(new Keyring("1", { "1": pepper(1) }));
const binding = ["ListTokens", "token:x", "acme", "user:ann"];

test("a page token returns the start of its page, for the same request", () => {
  fc.assert(
    fc.property(fc.nat(Number.MAX_SAFE_INTEGER), fc.string({ maxLength: 60 }), (time, key) => {
      const start = { time, key };
      const text = pages.issue(start, binding);
      expect(text).toMatch(/^[A-Za-z0-9_-]+$/);
      expect(pages.open(text, binding)).toEqual(start);
    }),
  );
  expect(pages.open("", binding)).toBeUndefined();
});

test("it is refused for any other request, also one whose parts join to the same text", () => {
  const text = pages.issue({ time: 1, key: "k" }, binding);
  const others = [
    [],
    ["ListTokens"],
    [...binding, ""],
    ["ListTokens", "token:x", "acmeuser:ann"],
    ["ListTokens", "token:xacme", "", "user:ann"],
    [...binding].reverse(),
  ];
  for (const other of others)
    expect(() => pages.open(text, other), other.join()).toThrow(
      expect.objectContaining({ reason: "INVALID_PAGE_TOKEN" }),
    );
});

test("every changed bit is detected, and any text gets an answer", () => {
  const bytes = Buffer.from(pages.issue({ time: 1_700_000_000_000, key: "tok_x" }, binding), "base64url");
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const changed = Buffer.from(bytes);
    changed[bit >> 3]! ^= 1 << (bit & 7);
    expect(() => pages.open(changed.toString("base64url"), binding), String(bit)).toThrow(
      expect.objectContaining({ reason: "INVALID_PAGE_TOKEN" }),
    );
  }
  fc.assert(
    fc.property(fc.string({ unit: "binary", minLength: 1 }), (text) => {
      expect(() => pages.open(text, binding)).toThrow(expect.objectContaining({ reason: "INVALID_PAGE_TOKEN" }));
    }),
  );
});

test("it outlives a change of the current pepper, and ends with its own pepper", () => {
  const ring = new Keyring("1", { "1": pepper(1), "2": pepper(2) });
  const text = pages.issue({ time: 5, key: "" }, binding);
  expect(new PageTokens(new Keyring("2", { "1": pepper(1), "2": pepper(2) })).open(text, binding)).toEqual({
    time: 5,
    key: "",
  });
  expect(() => new PageTokens(new Keyring("2", { "2": pepper(2) })).open(text, binding)).toThrow();
  expect(() => new PageTokens(new Keyring("1", { "1": pepper(9) })).open(text, binding)).toThrow();
  expect(ring.kids()).toEqual(["1", "2"]);
});
