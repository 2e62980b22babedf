import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";

const set = fromBinary(FileDescriptorSetSchema, readFileSync(join(import.meta.dirname, "../proto/sallyport.binpb")));
const own = set.file.filter(({ name }) => name.startsWith("sallyport/"));

test("every file names its place for generators of other languages, and all share one Go package", () => {
  expect(own.length).toBeGreaterThan(5);
  for (const { name, options } of own) {
    expect(options, name).toMatchObject({
      goPackage: "sallyport/v1;sallyportv1",
      javaPackage: "sallyport.v1",
      javaMultipleFiles: true,
      csharpNamespace: "Sallyport.V1",
      rubyPackage: "Sallyport::V1",
      phpNamespace: "Sallyport\\V1",
    });
  }
  const outer = own.map(({ options }) => options?.javaOuterClassname);
  expect(new Set(outer).size).toBe(own.length);
});

test("the validator's file imports only what every generator provides", () => {
  const validator = own.find(({ name }) => name.endsWith("/token_validator.proto"));
  for (const name of validator!.dependency) expect(name).toMatch(/^google\/protobuf\//);
});
