// Fuzzes the HTTP/2 server. The first argument is the number of seconds (60 by default), the second the seed.
import { seeded } from "../test/http2/fixture.ts";
import { checkOutput, deliver, randomCuts, randomStream } from "../test/http2/fuzz.ts";

const seconds = Number(process.argv[2] ?? 60);
const seed = Number(process.argv[3] ?? Date.now());
const pick = seeded(seed);
const end = performance.now() + seconds * 1_000;
let cases = 0;
let frames = 0;
console.log(`seed ${seed}`);
while (performance.now() < end) {
  const stream = randomStream(pick);
  const whole = deliver(stream, []);
  const cut = deliver(stream, randomCuts(pick, stream.length));
  const bug = [...whole.errors, ...cut.errors].find(({ error }) => error !== undefined);
  if (bug !== undefined || !cut.output.equals(whole.output) || whole.leaked !== 0 || cut.leaked !== 0) {
    console.log(`case ${cases} failed`, bug?.error ?? "cut changes output, or bodies are kept", stream.toString("hex"));
    process.exit(1);
  }
  frames += checkOutput(whole.output);
  cases++;
}
const memory = Math.round(process.memoryUsage.rss() / 1_048_576);
console.log(`${cases} streams, ${frames} frames answered, 0 failed, ${memory} MiB`);
