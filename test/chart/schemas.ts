import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";

/*
 * Strict JSON schemas for kubeconform, one file per kind: from the OpenAPI documents of Kubernetes and from the CRDs of
 * operators. Strict: an object with named properties has no others, as an API server with strict field validation wants.
 */

type Schema = Record<string, unknown>;

/** The pattern that tells kubeconform where they are. */
export const LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json";

/** Writes a schema for each kind of the OpenAPI documents in a folder. Returns how many. */
export function fromOpenApi(source: string, target: string): number {
  mkdirSync(target, { recursive: true });
  let count = 0;
  for (const file of readdirSync(source).filter((name) => name.endsWith("_openapi.json"))) {
    const document = JSON.parse(readFileSync(join(source, file), "utf8")) as {
      components?: { schemas?: Record<string, Schema> };
    };
    const definitions = document.components?.schemas ?? {};
    for (const [name, schema] of Object.entries(definitions)) {
      const kinds = schema["x-kubernetes-group-version-kind"] as { group: string; version: string; kind: string }[];
      // A type such as DeleteOptions belongs to every group; nobody writes it into a manifest.
      if (kinds?.length !== 1) continue;
      const { group, version, kind } = kinds[0]!;
      const whole = { $ref: `#/definitions/${name}`, definitions: strict(definitions) };
      write(target, kind, group, version, whole);
      count += 1;
    }
  }
  return count;
}

/** Writes a schema for each served version of each CRD in a folder. Returns how many. */
export function fromCrds(source: string, target: string): number {
  mkdirSync(target, { recursive: true });
  let count = 0;
  for (const file of readdirSync(source).filter((name) => name.endsWith(".yaml") && name !== "kustomization.yaml")) {
    for (const document of parseAllDocuments(readFileSync(join(source, file), "utf8"))) {
      const { spec } = document.toJS() as Crd;
      for (const { name, schema } of spec.versions) {
        write(target, spec.names.kind, spec.group, name, strict(schema.openAPIV3Schema) as Schema);
        count += 1;
      }
    }
  }
  return count;
}

interface Crd {
  readonly spec: {
    readonly group: string;
    readonly names: { readonly kind: string };
    readonly versions: readonly { readonly name: string; readonly schema: { readonly openAPIV3Schema: Schema } }[];
  };
}

/** kubeconform's own naming: the first part of the group only. */
function write(target: string, kind: string, group: string, version: string, schema: Schema): void {
  const suffix = group === "" ? version : `${group.split(".")[0]}-${version}`;
  writeFileSync(join(target, `${kind.toLowerCase()}-${suffix}.json`), JSON.stringify(schema));
}

function strict(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(strict);
  if (typeof value !== "object" || value === null) return value;
  const result: Schema = {};
  for (const [key, inner] of Object.entries(value)) {
    result[key] = key === "$ref" ? String(inner).replace("#/components/schemas/", "#/definitions/") : strict(inner);
  }
  const { properties, additionalProperties, type } = result;
  // A property may be called "properties": only a schema has a type beside it.
  if (type === "object" && typeof properties === "object" && additionalProperties === undefined) {
    if (result["x-kubernetes-preserve-unknown-fields"] !== true) result["additionalProperties"] = false;
  }
  return result;
}
