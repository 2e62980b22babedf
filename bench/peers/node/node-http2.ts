// node:http2 at its best: shared listeners, no closures, no Date, the body handed to end().
import http2, { type ServerHttp2Stream } from "node:http2";
import { framed, judge, listen } from "./work.ts";

interface Stream extends ServerHttp2Stream {
  body: Buffer | undefined;
}

const answer = judge(framed);
const HEADERS = { ":status": 200, "content-type": "application/grpc" };
const TRAILERS = { "grpc-status": "0" };
const OPTIONS = { waitForTrailers: true, sendDate: false };

const server = http2.createServer({
  settings: { initialWindowSize: 1 << 20, maxConcurrentStreams: 1024, enablePush: false },
  strictSingleValueFields: false,
  maxSessionMemory: 64,
  peerMaxConcurrentStreams: 1024,
});
server.on("session", (session) => session.setLocalWindowSize?.(1 << 24));
server.on("stream", (given) => {
  const stream = given as Stream;
  stream.body = undefined;
  stream.on("error", ignore);
  stream.on("data", gather);
  stream.on("end", respond);
  stream.on("wantTrailers", trailers);
});

function ignore(): void {}

function gather(this: Stream, bytes: Buffer): void {
  this.body = this.body === undefined ? bytes : Buffer.concat([this.body, bytes]);
}

function respond(this: Stream): void {
  if (this.destroyed) return;
  this.respond(HEADERS, OPTIONS);
  this.end(answer(this.body!.subarray(5)));
}

function trailers(this: Stream): void {
  this.sendTrailers(TRAILERS);
}

listen(server);
