/** The characters bytes[from, to) as a string; undefined if one is not ASCII. */
export function ascii(bytes: Buffer, from: number, to: number): string | undefined {
  for (let i = from; i < to; i++) if (bytes[i]! > 127) return undefined;
  return latin1(bytes, from, to);
}

/** `toString("latin1")` calls `latin1Slice` after checks that are not needed here. */
export function latin1(bytes: Buffer, from: number, to: number): string {
  const fast = (bytes as unknown as { latin1Slice?: (from: number, to: number) => string }).latin1Slice;
  return fast === undefined
    ? Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString("latin1")
    : fast.call(bytes, from, to);
}
