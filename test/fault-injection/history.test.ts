import { expect, test } from "vitest";
import { type Attempt, History, type Outcome, Subject } from "./history.ts";
import { ALLOW, INVALID_TOKEN } from "./wire.ts";

/** A token, its history, and steps at the present time. */
function story() {
  const history = new History();
  const subject = new Subject("tok_1", "a string");
  const begin = (op: string, raises = false) => {
    const attempt: Attempt = { id: op, op, at: "a", invoked: performance.now(), ...(raises && { raises }) };
    history.begin([subject], attempt);
    return (outcome: Outcome) => {
      history.end([subject], attempt, outcome, outcome);
      // Later than that: the clock is finer than the steps of a test.
      for (const now = performance.now(); performance.now() === now; );
    };
  };
  const answer = (verdict: number, start = performance.now()) => {
    history.answered(subject, "p", start, performance.now(), verdict, "Check");
    return history.tally.violations.map((violation) => violation.slice(0, 3));
  };
  return { history, begin, answer, subject };
}

test("an ALLOW to a call that starts after the OK is a violation, and an ALLOW to a call in progress is not", () => {
  const { begin, answer } = story();
  const end = begin("revoke");
  const before = performance.now();
  expect(answer(ALLOW)).toEqual([]);
  end("OK");
  expect(answer(ALLOW, before)).toEqual([]);
  expect(answer(ALLOW)).toEqual(["(A)"]);
});

test("a refusal without a cause is a violation, and so is an ALLOW after a refusal within a process", () => {
  expect(story().answer(INVALID_TOKEN)).toEqual(["(C)"]);
  const { begin, answer } = story();
  begin("revoke");
  expect(answer(INVALID_TOKEN)).toEqual([]);
  expect(answer(ALLOW, performance.now() + 1)).toEqual(["(B)"]);
});

test("a token that was given back must be accepted at OK, and may be either before", () => {
  const { begin, answer } = story();
  begin("enable")("OK");
  expect(answer(INVALID_TOKEN)).toEqual([]);
  const raised = begin("enable again", true);
  const before = performance.now();
  expect(answer(ALLOW)).toEqual([]);
  expect(answer(INVALID_TOKEN)).toEqual([]);
  raised("OK");
  expect(answer(INVALID_TOKEN, before)).toEqual([]);
  expect(answer(ALLOW)).toEqual([]);
  expect(answer(INVALID_TOKEN)).toEqual(["(C)"]);
  begin("revoke")("OK");
  expect(answer(ALLOW)).toEqual(["(C)", "(A)", "(B)"]);
});

test("a raise that was not done leaves it dead, and after one with an unknown outcome only final changes count", () => {
  const notDone = story();
  notDone.begin("enable")("OK");
  notDone.begin("enable again", true)("NOT_DONE");
  expect(notDone.answer(ALLOW)).toEqual(["(A)"]);

  const unknown = story();
  unknown.begin("enable")("OK");
  unknown.begin("enable again", true)("UNKNOWN");
  unknown.begin("enable")("OK");
  expect(unknown.answer(ALLOW)).toEqual([]);
  unknown.begin("revoke")("OK");
  expect(unknown.answer(ALLOW)).toEqual(["(A)"]);
});

test("a token that expires is dead from then on, and may be refused a little earlier", () => {
  const { answer, subject } = story();
  subject.expires(performance.now() + 60);
  expect(answer(INVALID_TOKEN)).toEqual([]);
  subject.deadFrom = performance.now() - 1;
  expect(answer(ALLOW)).toEqual(["(A)", "(B)"]);
});

test("a refusal while the database is empty is no violation, and afterwards the token may live again", async () => {
  const { history, answer } = story();
  await history.emptied(async () => {
    expect(answer(INVALID_TOKEN)).toEqual([]);
    expect(answer(ALLOW)).toEqual([]);
  });
  for (const now = performance.now(); performance.now() === now; );
  expect(answer(ALLOW)).toEqual([]);
  expect(answer(INVALID_TOKEN)).toEqual(["(C)"]);
});
