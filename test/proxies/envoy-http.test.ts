import { prepare, suite } from "./cases.ts";
import { envoyHttp } from "./suites.ts";

await prepare(envoyHttp);
suite("envoy-http", envoyHttp);
