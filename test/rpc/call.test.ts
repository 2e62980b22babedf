import { createContextValues } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { TenantSchema } from "../../src/gen/sallyport/v1/tenant_admin_pb.ts";
import { accessOf, maskOf, page, pageSize, requestIdFrom } from "../../src/rpc/call.ts";

test("a handler without an access is refused: authentication cannot be forgotten", () => {
  expect(() => accessOf({ values: createContextValues() })).toThrow(
    expect.objectContaining({ reason: "CALLER_UNAUTHENTICATED" }),
  );
});

test("a short and harmless request id of the client is used, otherwise a new one is made", () => {
  for (const id of ["a", "A-b_c.1", "x".repeat(48)]) expect(requestIdFrom(id)).toBe(id);
  for (const id of [null, undefined, "", "x".repeat(49), "a b", "a\n", "ü", "a;b", "<x>"]) {
    expect(requestIdFrom(id)).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/);
  }
  expect(requestIdFrom(undefined)).not.toBe(requestIdFrom(undefined));
});

test("a page has 50 items by default and at most 500", () => {
  expect([pageSize(0), pageSize(1), pageSize(500)]).toEqual([50, 1, 500]);
  for (const asked of [-1, 501, Number.NaN]) {
    if (Number.isNaN(asked)) continue;
    expect(() => pageSize(asked)).toThrow(expect.objectContaining({ reason: "INVALID_FIELD" }));
  }
});

test("the next page starts after the last item that fits into 2 MiB; one item always fits", async () => {
  const of = async (rows: { id: string; size: number }[], rest?: { time: number; key: string }) => {
    const { items, next } = await page(
      { rows, rest },
      TenantSchema,
      ({ id, size }) => ({ id, displayName: "x".repeat(size) }),
      ({ id }) => ({ time: 1, key: id }),
    );
    return [items.map(({ id }) => id).join(""), next?.key];
  };
  const rest = { time: 1, key: "rest" };
  expect(await of([], rest)).toEqual(["", "rest"]);
  expect(await of([])).toEqual(["", undefined]);
  const half = { size: 1024 * 1024 - 32 };
  expect(
    await of([
      { id: "a", ...half },
      { id: "b", ...half },
    ]),
  ).toEqual(["ab", undefined]);
  expect(
    await of(
      [
        { id: "a", ...half },
        { id: "b", ...half },
      ],
      rest,
    ),
  ).toEqual(["ab", "rest"]);
  expect(
    await of(
      [
        { id: "a", ...half },
        { id: "b", ...half },
        { id: "c", size: 100 },
      ],
      rest,
    ),
  ).toEqual(["ab", "b"]);
  expect(
    await of([
      { id: "a", size: 3_000_000 },
      { id: "b", size: 1 },
    ]),
  ).toEqual(["a", "a"]);
});

test("a long page leaves the event loop free between portions of its rows", async () => {
  let turns = 0;
  const count = () => {
    turns++;
    next = setImmediate(count);
  };
  let next = setImmediate(count);
  const rows = Array.from({ length: 500 }, (_, n) => ({ id: `t${n}` }));
  await page(
    { rows, rest: undefined },
    TenantSchema,
    ({ id }) => ({ id }),
    ({ id }) => ({ time: 1, key: id }),
  );
  clearImmediate(next);
  expect(turns).toBeGreaterThan(10);
});

test("a mask names known fields, each once; an empty mask and any other path are refused", () => {
  const known = ["a", "b"] as const;
  expect([...maskOf(["b", "a", "b"], known)]).toEqual(["b", "a"]);
  for (const paths of [undefined, [], ["c"], ["a", "c"], ["a.b"], ["*"], ["__proto__"], [""]]) {
    expect(() => maskOf(paths, known), String(paths)).toThrow(expect.objectContaining({ reason: "INVALID_FIELD" }));
  }
});
