import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const SRC = join(import.meta.dirname, "../src");
const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
const manifest = JSON.parse(readFileSync(join(SRC, "../package.json"), "utf8"));

test.each(files)("%s imports the package's own files and its declared packages only", (file) => {
  const declared = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies });
  const text = readFileSync(join(SRC, file), "utf8");
  for (const [, from] of text.matchAll(/\bfrom "([^"]+)"/g)) {
    if (from!.startsWith(".")) expect(join(SRC, file, "..", from!).startsWith(`${SRC}/`), from).toBe(true);
    else if (!from!.startsWith("node:"))
      expect(
        declared.some((name) => `${from}/`.startsWith(`${name}/`)),
        from,
      ).toBe(true);
  }
});

test("only the modules for a transport import its package", () => {
  const optional = Object.keys(manifest.peerDependenciesMeta);
  for (const file of files) {
    const used = optional.filter((name) => readFileSync(join(SRC, file), "utf8").includes(`from "${name}"`));
    const expected = file === "grpc-js.ts" ? ["@grpc/grpc-js"] : file === "connect.ts" ? ["@connectrpc/connect"] : [];
    expect(used, file).toEqual(expected);
  }
});

test("the generated code is that of the proto", () => {
  // The server's is held to the proto. The plugin's parameters in the second line differ.
  const [ours, servers] = [SRC, join(SRC, "../../../src")].map((src) =>
    readFileSync(join(src, "gen/sallyport/v1/token_validator_pb.ts"), "utf8").split("\n").toSpliced(0, 2),
  );
  expect(ours).toEqual(servers);
});
