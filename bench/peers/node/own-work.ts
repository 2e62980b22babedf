// The product's own HTTP/2 server with the work that the other peers do, and nothing more.
import { grpcMessage } from "../../../src/http2/unary/reply.ts";
import { serveOwn } from "./own.ts";
import { judge } from "./work.ts";

serveOwn(judge((answer) => grpcMessage(answer)));
