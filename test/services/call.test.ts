import { createContextValues } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { accessOf, maskOf, page, pageSize, requestIdFrom } from "../../src/services/call.ts";

test("a handler without an access is refused: authentication can not be forgotten", () => {
  expect(() => accessOf({ values: createContextValues() })).toThrow(
    expect.objectContaining({ reason: "CALLER_UNAUTHENTICATED" }),
  );
});

test("a client's request id is taken where it is short and harmless, else another is made", () => {
  for (const id of ["a", "A-b_c.1", "x".repeat(48)]) expect(requestIdFrom(id)).toBe(id);
  for (const id of [null, undefined, "", "x".repeat(49), "a b", "a\n", "ü", "a;b", "<x>"]) {
    expect(requestIdFrom(id)).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/);
  }
  expect(requestIdFrom(undefined)).not.toBe(requestIdFrom(undefined));
});

test("a page is 50 where nothing is asked, at most 500, and knows whether there is another", () => {
  expect([pageSize(0), pageSize(1), pageSize(500)]).toEqual([50, 1, 500]);
  for (const asked of [-1, 501, Number.NaN]) {
    if (Number.isNaN(asked)) continue;
    expect(() => pageSize(asked)).toThrow(expect.objectContaining({ reason: "INVALID_FIELD" }));
  }
  expect(page([1, 2, 3], 2)).toEqual({ shown: [1, 2], last: 2 });
  expect(page([1, 2], 2)).toEqual({ shown: [1, 2], last: undefined });
  expect(page([], 2)).toEqual({ shown: [], last: undefined });
});

test("a mask names known fields, each once; nothing, and anything else, is refused", () => {
  const known = ["a", "b"] as const;
  expect([...maskOf(["b", "a", "b"], known)]).toEqual(["b", "a"]);
  for (const paths of [undefined, [], ["c"], ["a", "c"], ["a.b"], ["*"], ["__proto__"], [""]]) {
    expect(() => maskOf(paths, known), String(paths)).toThrow(expect.objectContaining({ reason: "INVALID_FIELD" }));
  }
});
