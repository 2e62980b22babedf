import { HUFFMAN_CODES, HUFFMAN_LENGTHS } from "./tables.ts";

// A decoder that takes half an octet at a time. A state is an inner node of the code tree (there are exactly 256), a
// cell is `next state | 256 if an octet comes out | octet << 16`, or -1 where only the end-of-string code leads. No code
// is shorter than five bits, so four bits never yield two octets. The whole table is 16 KiB and stays in the L1 cache.
const STEP = new Int32Array(256 * 16).fill(-1);
/** States in which a string may end: the bits since the last octet are at most seven ones (RFC 7541 §5.2). */
const MAY_END = new Uint8Array(256);

const OCTET = 256;
const END_OF_STRING = -2;

build();

/** The most octets that `length` coded octets can hold. */
export function huffmanBound(length: number): number {
  return Math.floor((length * 8) / 5);
}

/**
 * Decodes source[start, end) into target from its beginning and returns how many octets came out, or -1 where RFC 7541
 * §5.2 demands a decoding error: the end-of-string code, or padding that is not the most significant bits of it or is
 * longer than seven bits. `target` must hold huffmanBound(end - start) octets.
 */
export function decodeHuffman(source: Uint8Array, start: number, end: number, target: Uint8Array): number {
  let state = 0;
  let length = 0;
  for (let at = start; at < end; at++) {
    const octet = source[at]!;
    let cell = STEP[(state << 4) | (octet >> 4)]!;
    if (cell < 0) return -1;
    if (cell & OCTET) target[length++] = cell >> 16;
    cell = STEP[((cell & 255) << 4) | (octet & 15)]!;
    if (cell < 0) return -1;
    if (cell & OCTET) target[length++] = cell >> 16;
    state = cell & 255;
  }
  return MAY_END[state] === 1 ? length : -1;
}

function build(): void {
  // A child is an inner node's number, or -(octet + 3) for a leaf.
  const children: [number, number][] = [[0, 0]];
  const plant = (code: number, length: number, leaf: number): void => {
    let node = 0;
    for (let bit = length - 1; bit > 0; bit--) {
      const pair = children[node]!;
      const side = (code >>> bit) & 1;
      if (pair[side] === 0) pair[side] = children.push([0, 0]) - 1;
      node = pair[side]!;
    }
    children[node]![code & 1] = leaf;
  };
  for (let octet = 0; octet < 256; octet++) plant(HUFFMAN_CODES[octet]!, HUFFMAN_LENGTHS[octet]!, -(octet + 3));
  plant(0x3fffffff, 30, END_OF_STRING);

  for (let state = 0; state < 256; state++) {
    for (let nibble = 0; nibble < 16; nibble++) STEP[(state << 4) | nibble] = walk(children, state, nibble);
  }
  for (let ones = 0, node = 0; ones < 8; ones++, node = children[node]![1]) MAY_END[node] = 1;
}

function walk(children: readonly [number, number][], state: number, nibble: number): number {
  let node = state;
  let out = 0;
  for (let bit = 3; bit >= 0; bit--) {
    const child = children[node]![(nibble >> bit) & 1]!;
    if (child === END_OF_STRING) return -1;
    if (child < 0) out = OCTET | ((-child - 3) << 16);
    node = Math.max(child, 0);
  }
  return node | out;
}
