import { expect, test } from "vitest";
import { seeded } from "./fixture.ts";
import { checkOutput, deliver, randomCuts, randomStream } from "./fuzz.ts";

test("1,500 damaged streams: no handler error, output that a client can parse, and the same output however the input is cut", () => {
  const pick = seeded(20_240);
  let frames = 0;
  let failures = 0;
  for (let n = 0; n < 1_500; n++) {
    const stream = randomStream(pick);
    const whole = deliver(stream, []);
    const cut = deliver(stream, randomCuts(pick, stream.length));
    expect(cut.output.equals(whole.output), `case ${n}`).toBe(true);
    expect([...whole.errors, ...cut.errors].filter(({ error }) => error !== undefined)).toEqual([]);
    expect([whole.leaked, cut.leaked]).toEqual([0, 0]);
    frames += checkOutput(whole.output);
    failures += whole.errors.length;
  }
  expect(frames).toBeGreaterThan(5_000);
  expect(failures).toBeGreaterThan(100);
});

test("a stream cut at every one of its octets gives the same output", () => {
  const pick = seeded(9);
  for (let n = 0; n < 6; n++) {
    const stream = randomStream(pick);
    const { output } = deliver(stream, []);
    for (let cut = 1; cut < stream.length; cut++) expect(deliver(stream, [cut]).output.equals(output)).toBe(true);
  }
});
