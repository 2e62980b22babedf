// Preloaded into an instance (`node --import`): its clocks run like those of a badly kept host. The monotonic clock is
// slow by as much as chrony may slew two hosts apart. The wall clock is days off, and steps at each SIGUSR2. The
// program itself is unchanged.
const { HISTORY_CLOCK_RATE = "1", HISTORY_WALL_DAYS = "0" } = process.env;
const HOUR = 3_600_000;
const STEPS = [HOUR, -HOUR, 0];
const rate = Number(HISTORY_CLOCK_RATE);
const days = Number(HISTORY_WALL_DAYS) * 24 * HOUR;
const mono = performance.now.bind(performance);
const wall = Date.now.bind(Date);
let steps = 0;
let step = 0;
performance.now = () => mono() * rate;
Date.now = () => wall() + days + step;
process.on("SIGUSR2", () => {
  step = STEPS[steps++ % STEPS.length]!;
  process.stderr.write(`the wall clock says ${Date.now()}\n`);
});
