// grpc-js with bytes in and bytes out, without decoding.
import { Server, ServerCredentials, type UntypedHandleCall } from "@grpc/grpc-js";
import { ALLOWED, encoded, VALIDATE } from "./work.ts";

const reply = Buffer.from(encoded(ALLOWED));
const same = (bytes: Buffer) => bytes;
const server = new Server();
server.addService(
  {
    ValidateToken: {
      path: VALIDATE,
      requestStream: false,
      responseStream: false,
      requestSerialize: same,
      requestDeserialize: same,
      responseSerialize: same,
      responseDeserialize: same,
    },
  },
  {
    ValidateToken: ((_call: unknown, done: (error: null, reply: Buffer) => void) =>
      done(null, reply)) as UntypedHandleCall,
  },
);
process.on("SIGTERM", () => process.exit(0));
const bind = process.env["PEER_BIND"]!;
server.bindAsync(bind, ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  process.stdout.write(`listening ${bind.startsWith("unix:") ? bind.slice(5) : `127.0.0.1:${port}`}\n`);
});
