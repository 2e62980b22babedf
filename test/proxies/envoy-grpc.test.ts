import { core, suite } from "./cases.ts";
import { envoyCases, merging } from "./envoy-cases.ts";
import { narrow } from "./envoy-protocols.ts";
import { describeWith, prepare } from "./stage.ts";
import { envoyGrpc } from "./suites.ts";

const old = { ...envoyGrpc, program: "envoy-1.36" };
await prepare(envoyGrpc);
await prepare(old);
suite("envoy-grpc", envoyGrpc, (stage) => {
  envoyCases(envoyGrpc, stage);
  merging(stage);
  narrow(stage);
});

describeWith("old versions: envoy 1.36", old, (stage) => core(old, stage));
