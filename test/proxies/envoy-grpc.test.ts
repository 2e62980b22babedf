import { prepare, suite } from "./cases.ts";
import { envoyGrpc } from "./suites.ts";

await prepare(envoyGrpc);
suite("envoy-grpc", envoyGrpc);
