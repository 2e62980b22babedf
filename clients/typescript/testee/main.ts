import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { StringValueSchema } from "@bufbuild/protobuf/wkt";
import { credentials, Server, ServerCredentials, type ServerUnaryCall, type sendUnaryData } from "@grpc/grpc-js";
import { authInterceptor, grpcValidator, identityOf } from "../src/grpc-js.ts";
import { Checker } from "../src/index.ts";

/*
 * An echo service for the tests of the client. SALLYPORT is the address of the data listener; CACHE is off or feed. It
 * prints its port, ends with its input, and then prints how often it left the feed.
 */
const { SALLYPORT = "127.0.0.1:7400", CACHE } = process.env;
const seen: Record<string, number> = {};
const count = (...what: string[]) => {
  for (const one of what) seen[one] = (seen[one] ?? 0) + 1;
};
const checker = new Checker({
  validator: grpcValidator(SALLYPORT, credentials.createInsecure()),
  cache: CACHE === "feed" ? "feed" : "off",
  hooks: { checked: (verdict, tier) => count(tier, `${tier} ${verdict}`), feed: (state) => count(state) },
});
const requirements = {
  "test.v1.Echo/Read": { scopes: ["history:read"] },
  "test.v1.Echo/Seen": "public",
} as const;
const server = new Server({ interceptors: [authInterceptor({ checker, requirements })] });

const text = {
  requestStream: false,
  responseStream: false,
  requestSerialize: encode,
  requestDeserialize: decode,
  responseSerialize: encode,
  responseDeserialize: decode,
} as const;
type Answer = sendUnaryData<string>;
const say = (call: ServerUnaryCall<string, string>, answer: Answer) =>
  answer(null, JSON.stringify([call.request, identityOf(call).principal]));
server.addService(
  {
    Say: { path: "/test.v1.Echo/Say", ...text },
    Read: { path: "/test.v1.Echo/Read", ...text },
    Seen: { path: "/test.v1.Echo/Seen", ...text },
  },
  { Say: say, Read: say, Seen: (_: unknown, answer: Answer) => answer(null, JSON.stringify(seen)) },
);
server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  process.stdout.write(`${JSON.stringify({ port })}\n`);
});
process.stdin.resume().once("end", async () => {
  server.forceShutdown();
  await checker.close();
  process.stdout.write(`${JSON.stringify({ left: seen["left"] ?? 0 })}\n`);
});

function encode(value: string): Buffer {
  return Buffer.from(toBinary(StringValueSchema, { $typeName: "google.protobuf.StringValue", value }));
}

function decode(bytes: Buffer): string {
  return fromBinary(StringValueSchema, bytes).value;
}
