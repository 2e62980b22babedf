import { expect, test } from "vitest";
import { Output, type OutputOwner } from "../../src/http2/server/output.ts";
import { KeepingPipe } from "./harness.ts";

/** Keeps what it is given, not a copy of it, as a socket does that is behind. */
class HoldingPipe extends KeepingPipe {
  override writableLength = 0;
  readonly held: Uint8Array[] = [];
  behind = false;

  override write(bytes: Uint8Array): boolean {
    this.held.push(bytes);
    if (this.behind) this.writableLength += bytes.length;
    return true;
  }
}

const owner = (writes: "lend" | "copy" = "lend"): OutputOwner & { pipe: HoldingPipe; told: number[] } => {
  const told: number[] = [];
  return { pipe: new HoldingPipe(), mustCopy: writes === "copy", queued: (octets) => told.push(octets), told };
};
const say = (output: Output, who: OutputOwner, text: string): void => {
  output.begin(who);
  const at = output.room(text.length);
  output.bytes.write(text, at, "latin1");
  output.end();
};
const heard = (pipe: HoldingPipe): string[] => pipe.held.map((bytes) => Buffer.from(bytes).toString("latin1"));

test("only one owner writes at a time", () => {
  const output = new Output();
  output.begin(owner());
  expect(() => output.begin(owner())).toThrow();
});

test("all bytes of one event are one write", () => {
  const output = new Output();
  const one = owner();
  output.begin(one);
  for (const text of ["a", "b", "c"]) output.bytes.write(text, output.room(1), "latin1");
  output.end();
  expect(heard(one.pipe)).toEqual(["abc"]);
});

test("a slow socket keeps its bytes while others write, and its owner is notified", () => {
  const output = new Output();
  const [slow, other] = [owner(), owner()];
  slow.pipe.behind = true;
  say(output, slow, "first");
  say(output, other, "other");
  say(output, slow, "second");
  expect(heard(slow.pipe)).toEqual(["first", "second"]);
  expect(slow.told).toEqual([5, 11]);
});

test("a slow socket holds no more memory than its own bytes", () => {
  const output = new Output();
  const slow = owner();
  slow.pipe.behind = true;
  for (let n = 0; n < 100; n++) say(output, slow, "some octets");
  const buffers = new Set(slow.pipe.held.map(({ buffer }) => buffer));
  const held = [...buffers].reduce((sum, { byteLength }) => sum + byteLength, 0);
  expect(held).toBeLessThan(4 * 65_536);
});

test("an encrypted socket never shares the buffer", () => {
  const output = new Output();
  const one = owner("copy");
  say(output, one, "secret");
  expect(one.pipe.held[0]!.buffer).not.toBe(output.bytes.buffer);
});

test("a destroyed socket is not written to", () => {
  const output = new Output();
  const gone = owner();
  gone.pipe.destroyed = true;
  say(output, gone, "x");
  expect(gone.pipe.held).toEqual([]);
});

test("more bytes than the buffer holds are sent in several writes, in order", () => {
  const output = new Output();
  const one = owner("copy");
  output.begin(one);
  for (const letter of "abcde") {
    const at = output.room(20_000);
    output.bytes.fill(letter, at, at + 20_000);
  }
  output.end();
  const text = heard(one.pipe);
  expect(text.map(({ length }) => length)).toEqual([60_000, 40_000]);
  expect(text.join("").replace(/(.)\1+/g, "$1")).toBe("abcde");
});
