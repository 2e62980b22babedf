import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { openApiOf } from "../../scripts/openapi-document.ts";
import { openApiPage } from "../../src/admin-api/openapi.ts";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";

interface Schema {
  readonly properties: Record<
    string,
    { readonly description?: string; readonly maxLength?: number; readonly enum?: string[] }
  >;
  readonly additionalProperties: boolean;
}
const served = JSON.parse(openApiPage().body) as {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, unknown>>;
  readonly components: { readonly schemas: Record<string, Schema> };
};

describe("the OpenAPI document", () => {
  test("equals the output of `node scripts/openapi.ts` for the committed schema", () => {
    const image = readFileSync(new URL("../../proto/sallyport.binpb", import.meta.url));
    expect(served).toEqual(JSON.parse(JSON.stringify(openApiOf(image))));
  });

  test("has every method of the generated code, with GET only for methods that change nothing", () => {
    expect(served.openapi).toBe("3.1.0");
    for (const method of TokenAdmin.methods) {
      const item = served.paths[`/sallyport.v1.TokenAdmin/${method.name}`];
      expect(Object.keys(item!).sort()).toEqual(method.idempotency === 1 ? ["get", "post"] : ["post"]);
    }
  });

  test("every reference leads somewhere", () => {
    const names = [...openApiPage().body.matchAll(/"#\/components\/schemas\/([^"]+)"/g)].map((one) => one[1]!);
    expect(names.length).toBeGreaterThan(50);
    for (const name of names) expect(served.components.schemas).toHaveProperty([name]);
  });

  test("every field has the comment of the schema, and its bounds", () => {
    for (const [name, { properties, additionalProperties }] of Object.entries(served.components.schemas)) {
      if (name === "Error") continue;
      expect(additionalProperties, name).toBe(false);
      for (const [field, { description }] of Object.entries(properties))
        expect(description, `${name}.${field}`).toMatch(/\S/);
    }
    expect(served.components.schemas["CreateTokenRequest"]!.properties["profile"]).toMatchObject({ maxLength: 32 });
  });
});
