import openApi from "./openapi.json" with { type: "json" };

const body = JSON.stringify(openApi);

/** The OpenAPI 3.1 document of the Connect JSON API, made from the schema by `scripts/openapi.ts`. */
export function openApiPage(): { readonly type: string; readonly body: string } {
  return { type: "application/json", body };
}
