// The built-in HTTP/2 server alone: a prepared reply to any ValidateToken.
import { grpcMessage } from "../../../src/http2/unary/reply.ts";
import { serveOwn } from "./own.ts";
import { ALLOWED, encoded } from "./work.ts";

const reply = grpcMessage(encoded(ALLOWED));
serveOwn(() => reply);
