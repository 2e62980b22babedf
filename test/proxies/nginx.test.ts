import { prepare, suite } from "./cases.ts";
import { nginx } from "./suites.ts";

await prepare(nginx);
suite("nginx", nginx);
