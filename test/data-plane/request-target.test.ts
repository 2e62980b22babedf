import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ContextBytes } from "../../src/data-plane/request-target.ts";
import { RequestContextSchema } from "../../src/gen/sallyport/v1/token_validator_pb.ts";

const TEXTS = {
  clientAddress: "203.0.113.7",
  method: "GET",
  host: "a.example",
  path: "/a?b=c",
  workload: "spiffe://a/b",
};

function contextOf(texts: Partial<typeof TEXTS>) {
  const bytes = Buffer.from(toBinary(RequestContextSchema, create(RequestContextSchema, texts)));
  return { bytes, context: new ContextBytes(bytes, 0, bytes.length) };
}

test("a copy shows what the bytes said, whatever is written over them", () => {
  const { bytes, context } = contextOf(TEXTS);
  const kept = context.copy()!;
  bytes.fill(0x41);
  const { method, host, path, workload } = kept;
  expect({ ...TEXTS, method, host, path, workload }).toEqual(TEXTS);
});

test("a context that is too long for one copy has none", () => {
  expect(contextOf({ path: `/${"a".repeat(2_040)}` }).context.copy()?.path).toHaveLength(2_041);
  expect(contextOf({ path: `/${"a".repeat(2_048)}` }).context.copy()).toBeUndefined();
});
