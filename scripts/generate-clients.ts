// `npm run generate:clients`: the code of the clients from the proto, by local plugins. Without Go, the Go client's stays.
import { execFileSync, spawnSync } from "node:child_process";

const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/local/go/bin` };
const languages = ["typescript"];
if (spawnSync("go", ["version"], { env }).status === 0) languages.push("go");
else console.error("go is not installed, so clients/go/gen was not made anew");
for (const language of languages) {
  execFileSync("buf", ["generate", "--template", `clients/${language}/buf.gen.yaml`], { env, stdio: "inherit" });
}
