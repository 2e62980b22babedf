import { suite } from "./cases.ts";
import { byUrl, envoyCases } from "./envoy-cases.ts";
import { prepare } from "./stage.ts";
import { envoyHttp } from "./suites.ts";

await prepare(envoyHttp);
suite("envoy-http", envoyHttp, (stage) => {
  envoyCases(envoyHttp, stage);
  byUrl(stage);
});
