import { expect, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { Journal } from "../../src/revocation/journal.ts";
import type {
  JournalPage,
  JournalPlace,
  JournalRecord,
  JournalState,
  JournalStore,
} from "../../src/revocation/ports.ts";
import { HandTime, recordedEvents, turn } from "../support/hand-time.ts";

const record = (position: number): JournalRecord => ({
  ...{ position, nr: 1, of: 1, key: "t", kind: "revoked", at: position, change: undefined },
});

const away = (metadata = {}) => new AppError("STORE_UNAVAILABLE", "away", { metadata });

/** The journal of one process over two databases that the test holds. */
function fixture() {
  const time = new HandTime();
  const { events, happened } = recordedEvents();
  const calls: string[] = [];
  const own = {
    ...{ head: 3, floor: 0, journaledN: 0, waived: false, attached: true, compared: "e1" as string | undefined },
    /** The rows that one page shows. */
    pageRows: 1000,
  };
  const kept = {
    away: false,
    /** The own database does not answer. */
    ownAway: false,
    begun: "begun" as "begun" | "other",
    appended: [] as number[],
    appending: async () => {},
  };
  const reply = <T>(value: T) => (kept.away ? Promise.reject(away({ journal: "failed" })) : Promise.resolve(value));
  const store: JournalStore = {
    state: async (): Promise<JournalState> => {
      if (kept.ownAway) throw away();
      return { ...own, database: "d", floorN: own.floor };
    },
    attach: async () => {
      own.attached = true;
    },
    after: async (_, { position }: JournalPlace): Promise<JournalPage> => {
      const from = Math.max(position, own.floor) + 1;
      const records = Array.from({ length: Math.max(0, own.head + 1 - from) }, (__, i) => record(from + i));
      return { ...own, records: records.slice(0, own.pageRows), more: records.length > own.pageRows };
    },
    reached: async (_, position) => {
      own.journaledN = position;
    },
    common: async () => -1,
    compared: async (epoch) => {
      own.compared = epoch;
    },
    mismatch: async (_, why) => {
      calls.push(`mismatch ${why}`);
      return true;
    },
    alone: (work) => work(),
    begin: () => {
      calls.push("begin");
      return reply(kept.begun);
    },
    append: async (_, records) => {
      calls.push("append");
      await kept.appending();
      if (!kept.away) kept.appended.push(...records.map(({ position }) => position));
      return reply(true);
    },
    epochs: () => reply(["e1"]),
    newest: () => reply(Math.max(-1, ...kept.appended)),
    page: () => reply([]),
    close: async () => {},
  };
  const { clock, timers } = time;
  const freshness = { unproven: false, halt: () => {} };
  const log = { reportLost: async () => {} };
  const journal = new Journal({ store, log, freshness, clock, timers, events, wake: () => {} });
  /** What a change that waits is told, once it is told something. */
  const written = async (epoch = "e1") => {
    let answer: boolean | undefined;
    void journal.written(epoch, clock.mono()).then((done) => {
      answer = done;
    });
    for (let i = 0; i < 40 && answer === undefined; i++) await time.advance(100);
    return answer;
  };
  return { time, journal, own, kept, calls, happened, freshness, written };
}

test("a change is not in the journal if rows of the log are gone that the journal never got", async () => {
  const { journal, own, kept, happened, written } = fixture();
  journal.seen("e1", 3);
  expect(await written()).toBe(true);
  expect(kept.appended).toEqual([1, 2, 3]);
  // The log loses 4 to 7 while this process is cut off from the journal.
  Object.assign(own, { head: 9, floor: 7 });
  expect(await written()).toBe(false);
  expect(happened).toContain("alarm:journal_mismatch");
  // What is there is kept, but that changes nothing.
  expect(kept.appended).toEqual([1, 2, 3, 8, 9]);
  expect(await written()).toBe(false);
  own.waived = true;
  expect(await written()).toBe(true);
});

test("a loss raises the alarm each minute, and none where an operator does without the journal", async () => {
  const { journal, own, happened, time, written } = fixture();
  const alarms = () => happened.filter((one) => one === "alarm:journal_mismatch").length;
  journal.seen("e1", 3);
  expect(await written()).toBe(true);
  Object.assign(own, { head: 9, floor: 7, waived: true });
  expect(await written()).toBe(true);
  expect(alarms()).toBe(0);
  // The next epoch does not do without it, and the database says of the journal what it said before.
  own.waived = false;
  journal.seen("e2", 9);
  await time.advance(1000);
  expect(alarms()).toBe(1);
  await time.advance(120_000);
  expect(alarms()).toBe(3);
});

test("a change counts as waiting from its commit on, also one that is made during a round", async () => {
  const { journal, own, kept, time, written } = fixture();
  journal.seen("e1", 3);
  expect(await written()).toBe(true);
  expect(journal.lag).toBe(0);
  own.head = 4;
  kept.appending = () => {
    kept.appending = async () => {};
    return new Promise((resolve) => void time.timers.after(500, resolve));
  };
  journal.changed();
  await time.advance(100);
  expect(journal.lag).toBe(0.1);
  own.head = 5;
  journal.seen("e1", 5);
  await time.advance(500);
  expect(kept.appended).toEqual([1, 2, 3, 4]);
  expect(journal.lag).toBe(0.5);
  await time.advance(300);
  expect(journal.lag).toBe(0);
  expect(kept.appended).toEqual([1, 2, 3, 4, 5]);
});

test("only failures of the journal itself raise the alarm that it is unreachable", async () => {
  const { journal, own, kept, happened, freshness, time } = fixture();
  const tenSeconds = async () => {
    for (let i = 0; i < 20; i++) {
      journal.seen("e1", 3);
      await time.advance(500);
    }
    return happened.includes("alarm:journal_unreachable");
  };
  freshness.unproven = true;
  own.compared = undefined;
  kept.ownAway = true;
  expect(await tenSeconds()).toBe(false);
  Object.assign(kept, { ownAway: false, away: true });
  expect(await tenSeconds()).toBe(true);
});

test("a stop appends the change that was made last", async () => {
  const { journal, own, kept, written } = fixture();
  journal.seen("e1", 3);
  expect(await written()).toBe(true);
  own.head++;
  journal.changed();
  await journal.stop();
  expect(kept.appended).toEqual([1, 2, 3, 4]);
});

test("rows that are gone are no loss if another process has put them into the journal, or if it begins", async () => {
  const { journal, own, happened, written } = fixture();
  Object.assign(own, { head: 9, floor: 7 });
  journal.seen("e1", 9);
  expect(await written()).toBe(true);
  Object.assign(own, { head: 19, floor: 17, journaledN: 18 });
  expect(await written()).toBe(true);
  expect(happened.filter((one) => one.startsWith("alarm"))).toEqual([]);
});

test("a process that starts after the loss does not pass over it", async () => {
  const { journal, own, written } = fixture();
  Object.assign(own, { head: 9, floor: 7, journaledN: 3 });
  journal.seen("e1", 9);
  await turn();
  expect(await written()).toBe(false);
});

test("another database's journal stops no database that has never had one", async () => {
  const { journal, own, kept, calls, happened, time } = fixture();
  Object.assign(own, { attached: false, compared: undefined });
  kept.begun = "other";
  await journal.attach("e1");
  for (let i = 0; i < 10; i++) {
    journal.seen("e1", 3);
    await time.advance(500);
  }
  expect(happened).toContain("alarm:journal_mismatch");
  expect(calls.filter((call) => call.startsWith("mismatch"))).toEqual([]);
  expect(own.attached).toBe(false);
  // Once it is its own, it counts.
  kept.begun = "begun";
  for (let i = 0; i < 10; i++) {
    journal.seen("e1", 3);
    await time.advance(500);
  }
  expect(own).toMatchObject({ attached: true, compared: "e1" });
  await journal.attach("e2");
  kept.begun = "other";
  journal.seen("e2", 3);
  await time.advance(500);
  expect(calls).toContain("mismatch it is the journal of another database");
});

test("while the journal is away, changes that come do not ask it all the time", async () => {
  const { journal, own, kept, calls, time, written } = fixture();
  journal.seen("e1", 3);
  expect(await written()).toBe(true);
  kept.away = true;
  own.head++;
  calls.length = 0;
  const answers: boolean[] = [];
  for (let i = 0; i < 1000; i++) {
    void journal.written("e1", time.clock.mono()).then((done) => answers.push(done));
    journal.changed();
    await time.advance(1);
  }
  expect(calls.length).toBeLessThanOrEqual(1000 / 50);
  await time.advance(500);
  expect(answers).toEqual(Array.from({ length: 1000 }, () => false));
  kept.away = false;
  expect(await written()).toBe(true);
});

test("a change of an epoch that is over, or after the stop, fails at once", async () => {
  const { journal } = fixture();
  journal.seen("e1", 3);
  journal.seen("e2", 3);
  expect(await Promise.race([journal.written("e1", 0), turn()])).toBe(false);
  await journal.stop();
  expect(await Promise.race([journal.written("e2", 0), turn()])).toBe(false);
});

test("a stop does not wait for all pages", async () => {
  const { journal, own, kept, calls, time } = fixture();
  Object.assign(own, { head: 1000, pageRows: 10 });
  kept.appending = async () => {
    kept.appending = async () => {};
    void journal.stop();
  };
  journal.seen("e1", 1000);
  await time.advance(500);
  expect(calls.filter((call) => call === "append").length).toBeLessThan(5);
});
