import { suite } from "./cases.ts";
import { prepare } from "./stage.ts";
import { haproxy } from "./suites.ts";

await prepare(haproxy);
suite("haproxy", haproxy);
