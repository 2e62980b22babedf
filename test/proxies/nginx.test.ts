import { suite } from "./cases.ts";
import { prepare } from "./stage.ts";
import { nginx } from "./suites.ts";

await prepare(nginx);
suite("nginx", nginx);
