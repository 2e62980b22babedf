// Writes src/admin-api/openapi.json, the OpenAPI 3.1 document of the Connect JSON API, from the schema image. `node
// scripts/openapi.ts`; `buf build -o proto/sallyport.binpb` makes the image.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { openApiOf } from "./openapi-document.ts";

const root = new URL("../", import.meta.url);
const target = new URL("src/admin-api/openapi.json", root);
const document = openApiOf(readFileSync(new URL("proto/sallyport.binpb", root)));
writeFileSync(target, JSON.stringify(document, null, 2));
execFileSync("biome", ["format", "--write", target.pathname], { stdio: "ignore" });
console.log(`${Object.keys(document.paths).length} paths written to ${target.pathname}`);
