// The built-in HTTP/2 server with exactly the work of the other peers.
import { grpcMessage } from "../../../src/http2/unary/reply.ts";
import { serveOwn } from "./own.ts";
import { judge } from "./work.ts";

serveOwn(judge((answer) => grpcMessage(answer)));
