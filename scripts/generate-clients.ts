// `npm run generate:clients`: the code of the clients from the proto, by local plugins. A client whose tools are missing
// keeps its code.
import { execFileSync, spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { fetchProgram } from "./fetch.ts";

const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/local/go/bin` };
generate("typescript");
if (spawnSync("go", ["version"], { env }).status === 0) generate("go");
else console.error("go is not installed, so clients/go/gen was not made anew");
const tools = await fetchProgram("grpcio-tools").catch((error: Error) => error.message);
if (tools.startsWith("/")) generate("python", { PYTHONPATH: tools });
else console.error(`${tools}, so clients/python/sallyport/gen was not made anew`);
const protoc = await fetchProgram("protoc").catch((error: Error) => error.message);
if (protoc.startsWith("/")) {
  // The plugin cannot clean its folder, because other code is beside it.
  rmSync("clients/java/src/main/java/dev/sallyport/client/gen", { recursive: true, force: true });
  generate("java", { PATH: `${dirname(protoc)}:${env.PATH}` });
} else console.error(`${protoc}, so the generated code in clients/java was not made anew`);
if (spawnSync("cargo", ["--version"], { env }).status === 0) {
  const install = [
    "install",
    "--locked",
    "--quiet",
    "--root",
    ".cache/rust/tools",
    "--version",
    "0.5.0",
    "protoc-gen-prost",
  ];
  execFileSync("cargo", install, { env, stdio: "inherit" });
  generate("rust");
} else console.error("cargo is not installed, so clients/rust/src/gen was not made anew");

function generate(language: string, more: Record<string, string> = {}): void {
  execFileSync("buf", ["generate", "--template", `clients/${language}/buf.gen.yaml`], {
    env: { ...env, ...more },
    stdio: "inherit",
  });
}
