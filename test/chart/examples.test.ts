import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { fromJsonString } from "@bufbuild/protobuf";
import { createValidator } from "@bufbuild/protovalidate";
import { afterAll, expect, test } from "vitest";
import { CreateTokenRequestSchema } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { folder, ROOT } from "../support/program.ts";
import { fetched, parse } from "./helm.ts";
import { fromCrds, LOCATION } from "./schemas.ts";

const run = promisify(execFile);
const FILE = join(ROOT, "examples/external-secrets/token.yaml");
const objects = parse(readFileSync(FILE, "utf8"));
const place = folder();
afterAll(() => place.remove());

test("the generator's body is a request that the API takes, and the token outlives two refreshes", () => {
  const [generator, secret] = objects.map(({ spec }) => spec);
  const request = fromJsonString(CreateTokenRequestSchema, generator.body);
  expect(createValidator().validate(CreateTokenRequestSchema, request).kind).toBe("valid");
  expect(generator.url).toMatch(/\/sallyport\.v1\.TokenAdmin\/CreateToken$/);
  const [, hours] = /^(\d+)h0m0s$/.exec(secret.refreshInterval)!;
  expect(request.lifetime).toMatchObject({ case: "ttl", value: { seconds: BigInt(Number(hours) * 7200) } });
});

const crds = await fetched("external-secrets");
const program = await fetched("kubeconform");
const missing = crds.missing || program.missing;

test.skipIf(missing !== "")(`kubeconform finds both objects valid${missing && ` (skipped: ${missing})`}`, async () => {
  fromCrds(crds.path, place.path);
  const check = ["-strict", "-summary", "-schema-location", join(place.path, LOCATION), FILE];
  expect((await run(program.path, check)).stdout).toMatch(/Valid: 2, Invalid: 0, Errors: 0, Skipped: 0/);
});
