// connect-node as its documentation sets it up. HTTP/1.1 with the argument `http1`, else HTTP/2.
import http from "node:http";
import http2 from "node:http2";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { TokenValidator } from "../../../src/gen/sallyport/v1/token_validator_pb.ts";
import { ALLOWED, listen } from "./work.ts";

const handler = connectNodeAdapter({
  routes: (router) => router.service(TokenValidator, { validateToken: () => ALLOWED }),
});
listen(process.argv[2] === "http1" ? http.createServer(handler) : http2.createServer(handler));
