// A gRPC service behind Sallyport. SALLYPORT is the address of the data listener; CACHE is off or feed.
import { credentials, Server, ServerCredentials } from "@grpc/grpc-js";
import { Checker } from "sallyport-client";
import { authInterceptor, grpcValidator, identityOf } from "sallyport-client/grpc-js";

const validator = grpcValidator(process.env.SALLYPORT ?? "127.0.0.1:7400", credentials.createInsecure());
const checker = new Checker({ validator, cache: process.env.CACHE === "feed" ? "feed" : "off" });
const requirements = { "shop.v1.Orders/Get": { scopes: ["orders.read"] } };
const server = new Server({ interceptors: [authInterceptor({ checker, requirements })] });

const text = { serialize: (value) => Buffer.from(value), deserialize: (bytes) => bytes.toString() };
const get = {
  path: "/shop.v1.Orders/Get",
  requestStream: false,
  responseStream: false,
  requestSerialize: text.serialize,
  requestDeserialize: text.deserialize,
  responseSerialize: text.serialize,
  responseDeserialize: text.deserialize,
};
server.addService(
  { Get: get },
  { Get: (call, answer) => answer(null, `order ${call.request} for ${identityOf(call).principal}`) },
);
server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  process.stdout.write(`${JSON.stringify({ port })}\n`);
});
process.once("SIGTERM", async () => {
  server.forceShutdown();
  await checker.close();
});
