// Preloaded into one instance (`node --import`): its clocks run as a badly kept host's may. The monotonic one is slow
// by what chrony may slew two hosts apart, the wall clock is days off. The program itself is as it is.
const { HISTORY_CLOCK_RATE = "1", HISTORY_WALL_DAYS = "0" } = process.env;
const rate = Number(HISTORY_CLOCK_RATE);
const offset = Number(HISTORY_WALL_DAYS) * 86_400_000;
const mono = performance.now.bind(performance);
const wall = Date.now.bind(Date);
performance.now = () => mono() * rate;
Date.now = () => wall() + offset;
