import { describe, expect, test } from "vitest";
import { parseSans } from "../../src/listen/peers.ts";

describe("parseSans", () => {
  test("DNS and URI names are taken, addresses and mail are not", () => {
    expect(parseSans("DNS:a.example, URI:spiffe://td/ns/x, IP Address:10.0.0.1, email:x@example")).toEqual([
      "a.example",
      "spiffe://td/ns/x",
    ]);
  });

  test("a name that hides another behind a comma is one odd name, which is nobody", () => {
    expect(parseSans('DNS:"x, DNS:evil.example", DNS:good.example')).toEqual(["good.example"]);
  });

  test("a list that cannot be read whole names nobody", () => {
    expect(parseSans('DNS:good.example, DNS:"broken')).toEqual([]);
  });

  test("a DNS name that looks like a URI is nobody", () => {
    expect(parseSans("DNS:spiffe://td/ns/x")).toEqual([]);
  });
});
