import { expect, test } from "vitest";
import { decodeHuffman, huffmanBound } from "../../src/http2/wire/huffman.ts";
import { HUFFMAN_CODES, HUFFMAN_LENGTHS } from "../../src/http2/wire/tables.ts";
import { seeded } from "./fixture.ts";

/** Bit by bit from the table, with nothing in common with the decoder. */
function encode(octets: Uint8Array): Buffer {
  let bits = "";
  for (const octet of octets) bits += HUFFMAN_CODES[octet]!.toString(2).padStart(HUFFMAN_LENGTHS[octet]!, "0");
  bits += "1".repeat((8 - (bits.length % 8)) % 8);
  return Buffer.from((bits.match(/.{8}/g) ?? []).map((octet) => Number.parseInt(octet, 2)));
}

const decode = (coded: Uint8Array): Buffer | undefined => {
  const target = Buffer.alloc(huffmanBound(coded.length));
  const length = decodeHuffman(coded, 0, coded.length, target);
  return length < 0 ? undefined : target.subarray(0, length);
};

test("every octet, alone and among others, decodes to itself", () => {
  for (let octet = 0; octet < 256; octet++) {
    for (const text of [Buffer.of(octet), Buffer.of(48, octet), Buffer.of(octet, 255, octet)]) {
      expect(decode(encode(text))).toEqual(text);
    }
  }
});

test("random strings decode to themselves", () => {
  const pick = seeded(3);
  for (let n = 0; n < 500; n++) {
    const text = Buffer.from(Array.from({ length: pick(80) }, () => pick(256)));
    expect(decode(encode(text))).toEqual(text);
  }
});

test("random octets that decode to a text are what the encoder makes of that text", () => {
  const pick = seeded(4);
  let accepted = 0;
  for (let n = 0; n < 20_000; n++) {
    const coded = Buffer.from(Array.from({ length: 1 + pick(4) }, () => pick(256)));
    const text = decode(coded);
    if (text === undefined) continue;
    accepted++;
    expect(encode(text)).toEqual(coded);
  }
  expect(accepted).toBeGreaterThan(100);
});
