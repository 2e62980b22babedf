// Builds the console into src/console/dist: `npm run console`. The files are committed, so that a start needs no build.
import { mkdirSync, writeFileSync } from "node:fs";
import { builtConsole, DIST } from "./console-build.ts";

mkdirSync(DIST, { recursive: true });
for (const [name, bytes] of await builtConsole()) {
  writeFileSync(new URL(name, DIST), bytes);
  console.log(`${name} ${bytes.length} bytes`);
}
