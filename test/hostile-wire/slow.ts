import { expect } from "vitest";
import { END_HEADERS, Frame, frame, headerBlock, PREFACE, settings } from "../listen/wire.ts";
import { type Case, dial, type Target } from "./hostile-wire.ts";

/** Long enough for the limits of 5 s and 10 s and the second in which they are looked at. */
const PATIENCE_MS = 13_000;

const half: Readonly<Record<string, (target: Target) => string | Buffer>> = {
  nothing: () => "",
  "one letter": () => "P",
  "half a preface": () => PREFACE.subarray(0, 12),
  "a preface and no request": () => Buffer.concat([PREFACE, settings()]),
  "half a request line": () => "POST /sally",
  "half a header": (t) => `POST ${t.rpc.path} HTTP/1.1\r\nHost: a\r\nX: `,
  "half a body": (t) =>
    `POST ${t.rpc.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{`,
};

const halves = (target: Target): [string, (typeof half)[string]][] =>
  Object.entries(half).filter(([name]) => !(target.keepsIdle && name === "a preface and no request"));

export const slow: readonly Case[] = [
  {
    title: "a client that stops in the middle of a request is disconnected",
    async run(target) {
      const open = await Promise.all(
        halves(target).map(async ([name, bytes]) => {
          const raw = await dial(target, /preface/.test(name) ? "h2" : "h1");
          raw.socket.write(bytes(target));
          return { name, raw };
        }),
      );
      const late = new Promise<"late">((resolve) => setTimeout(resolve, PATIENCE_MS, "late"));
      for (const { name, raw } of open) {
        expect(await Promise.race([raw.closed, late]), name).not.toBe("late");
      }
    },
  },
  {
    title: "many stalled clients at once leave room for others",
    async run(target) {
      const open = await Promise.all(
        Array.from({ length: target.ca === undefined ? 40 : 20 }, () => dial(target, "h1").catch(() => undefined)),
      );
      for (const one of open) one?.socket.write("P");
      await target.normalRequest();
      for (const one of open) one?.socket.destroy();
    },
  },
  {
    title: "a slow body on one stream does not delay the other streams",
    async run(target) {
      const raw = await dial(target, "h2");
      const headers = headerBlock([
        [":method", "POST"],
        [":scheme", "http"],
        [":path", target.rpc.path],
        [":authority", "a"],
        ["content-type", "application/grpc"],
      ]);
      raw.socket.write(Buffer.concat([PREFACE, settings(), frame(Frame.HEADERS, END_HEADERS, 1, headers)]));
      for (let i = 0; i < 20; i++) {
        raw.socket.write(frame(Frame.DATA, 0, 1, Buffer.from([0])));
        await target.normalRequest();
      }
      raw.socket.destroy();
    },
  },
];
