import { prepare, suite } from "./cases.ts";
import { caddy } from "./suites.ts";

await prepare(caddy);
suite("caddy", caddy);
