import { expect } from "vitest";
import { END_HEADERS, END_STREAM, Frame, frame, framesIn, headerBlock, PREFACE, settings } from "../listen/wire.ts";
import { answerOf, type Case, dial, h1Status, type Target, withSession } from "./hostile-wire.ts";

const BAD = ["[::1", "a b", "a:99999", "a%zz", "256.256.256.256", "a".repeat(300), "user@a", "a/b", "[::1]x", ""];

const h1 = (version: string, target: Target, host: string | undefined): string =>
  `POST ${target.rpc.path} HTTP/${version}\r\n${host === undefined ? "" : `Host: ${host}\r\n`}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`;

/** One request would have ended a process that trusts the URL parser: see `listen/authority.ts`. */
export const authority: readonly Case[] = [
  ...["1.0", "1.1"].map((version) => ({
    title: `HTTP/${version} without an authority, or with a bad one, is answered 400`,
    async run(target: Target) {
      const missing = target.probes === true && version === "1.0" ? [] : [undefined];
      for (const host of [...BAD, ...missing])
        expect(await h1Status(target, h1(version, target, host)), String(host)).toBe(400);
    },
  })),
  {
    title: "two Host headers are answered 400, equal ones too",
    async run(target) {
      for (const second of ["a", "b"])
        expect(await h1Status(target, h1("1.1", target, `a\r\nHost: ${second}`))).toBe(400);
    },
  },
  {
    title: "HTTP/2 with a bad authority is answered 400, or its stream is reset",
    async run(target) {
      for (const value of BAD)
        await withSession(target, async (session) => {
          const stream = session.request(
            { ":method": "POST", ":path": target.rpc.path, ":authority": value, "content-type": "application/json" },
            { endStream: true },
          );
          expect([0, 400], value).toContain((await answerOf(stream)).http);
        });
    },
  },
  {
    title: "HTTP/2 with no authority, two, or a Host that contradicts it, is not served",
    async run(target) {
      const base = [
        [":method", "POST"],
        [":scheme", "http"],
        [":path", target.rpc.path],
        ["content-type", "application/json"],
      ] as const;
      const requests = [
        [...base],
        [...base, ["host", "[::1"]] as const,
        [[":authority", "a"], [":authority", "b"], ...base] as const,
        [[":authority", "a"], ...base, ["host", "b"]] as const,
        [[":authority", "a"], ...base, ["host", "a"], ["host", "a"]] as const,
      ];
      for (const fields of requests) {
        const raw = await dial(target, "h2");
        const headers = frame(Frame.HEADERS, END_HEADERS | END_STREAM, 1, headerBlock(fields));
        raw.socket.write(Buffer.concat([PREFACE, settings(), headers]));
        const reply = () => framesIn(raw.bytes()).find((one) => one.stream === 1 || one.type === Frame.GOAWAY);
        await raw.until(() => reply() !== undefined).catch(() => {});
        // 200 is entry 8 of the static table (RFC 7541, appendix A).
        if (reply()?.type === Frame.HEADERS) expect(reply()!.payload.includes(0x88)).toBe(false);
        raw.socket.destroy();
      }
    },
  },
];
