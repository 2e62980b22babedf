/** Numbers below a bound, the same in every run of a seed. */
export type Pick = (below: number) => number;

export const one = <T>(pick: Pick, of: readonly T[]): T => of[pick(of.length)]!;
export const many = <T>(pick: Pick, most: number, make: () => T): T[] => Array.from({ length: pick(most + 1) }, make);

const ODD = ["", "\0", "é", "🎉", "\ud800", "\u2028", " ", "\n", "%00", "__proto__", "constructor", "a".repeat(300)];

/** Short text, now and then of a kind that programs stumble over. */
export function text(pick: Pick, alphabet = "abcXYZ019_-.:/@ "): string {
  if (pick(8) === 0) return one(pick, ODD);
  return many(pick, 12, () => alphabet[pick(alphabet.length)]!).join("");
}

/** One to three changes: of a byte, a bit, a cut, a repeat, a piece moved. */
export function damaged(pick: Pick, bytes: Uint8Array): Buffer {
  let now = Buffer.from(bytes);
  for (let n = pick(3); n >= 0; n--) {
    const at = pick(now.length + 1);
    const to = Math.min(now.length, at + pick(9));
    switch (pick(6)) {
      case 0:
        if (now.length > 0) now[at % now.length] = pick(256);
        break;
      case 1:
        if (now.length > 0) now[at % now.length]! ^= 1 << pick(8);
        break;
      case 2:
        now = now.subarray(0, at);
        break;
      case 3:
        now = Buffer.concat([now.subarray(0, at), now.subarray(to)]);
        break;
      case 4:
        now = Buffer.concat([now.subarray(0, to), now.subarray(at)]);
        break;
      case 5:
        now = Buffer.concat([now.subarray(0, at), Buffer.from(many(pick, 6, () => pick(256))), now.subarray(at)]);
    }
  }
  return now;
}

/** The same for text, with characters of an alphabet put in. */
export function damagedText(pick: Pick, of: string, alphabet: string): string {
  let now = of;
  for (let n = pick(3); n >= 0; n--) {
    const at = pick(now.length + 1);
    const to = at + pick(4);
    const put = pick(5) === 0 ? one(pick, ODD) : alphabet[pick(alphabet.length)]!;
    now = one(pick, [
      now.slice(0, at) + put + now.slice(at + 1),
      now.slice(0, at) + put + now.slice(at),
      now.slice(0, at) + now.slice(to),
      now.slice(0, to) + now.slice(at),
      now.slice(to) + now.slice(0, to),
    ]);
  }
  return now;
}
