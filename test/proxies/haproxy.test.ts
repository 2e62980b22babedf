import { prepare, suite } from "./cases.ts";
import { haproxy } from "./suites.ts";

await prepare(haproxy);
suite("haproxy", haproxy);
