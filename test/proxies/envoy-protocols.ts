import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, test } from "vitest";
import { arrived, ask, bearer, type Header } from "./ask.ts";
import { counter } from "./envoy-stats.ts";
import { expectDenied, forged, IDENTITY, REFUSED, type Stage } from "./stage.ts";
import type { Suite } from "./suites.ts";

/** Requests that are none of the usual. */
export function protocols(its: Suite, stage: () => Stage): void {
  describe("upgrades", () => {
    test("a websocket is checked once, at its start", async () => {
      const { edge, scene } = stage();
      const first = (token: string) => firstLine(edge.port, "GET / HTTP/1.1", websocket(bearer(token)), "hello");
      expect(await first(scene.tokens.good)).toEqual(["HTTP/1.1 101 Switching Protocols", "hello"]);
      expect((await first(scene.tokens.bad))[0]).toBe("HTTP/1.1 401 Unauthorized");
    });

    test("CONNECT has no route and is not checked", async () => {
      const { edge } = stage();
      const before = await counter(edge, "denied");
      expect((await firstLine(edge.port, "CONNECT upstream.example:443 HTTP/1.1", []))[0]).toMatch(/^HTTP\/1.1 404/);
      expect(await counter(edge, "denied")).toBe(before);
    });

    test("a preflight has no token: it gets 401, or passes without an identity if the policy allows it", async () => {
      const { changed, edge, scene } = stage();
      const preflight: Header[] = [
        ["Origin", "https://app.example"],
        ["Access-Control-Request-Method", "GET"],
      ];
      const asked = { method: "OPTIONS", headers: [...forged, ...preflight] };
      expectDenied(await ask(edge.port, asked), 401, REFUSED.none);
      await changed({ changes: [its.policy("cors")] }, async ({ port }) => {
        const reply = await ask(port, asked);
        expect(reply.status).toBe(200);
        for (const name of IDENTITY) expect(arrived(reply, name), name).toEqual(["-"]);
        expectDenied(await ask(port, { ...asked, method: "GET" }), 401, REFUSED.none);
        expectDenied(await ask(port, { method: "OPTIONS", headers: [preflight[0]!] }), 401, REFUSED.none);
        // A token that is sent is not looked at: nobody may rely on it.
        const withBad = await ask(port, { ...asked, headers: [...asked.headers, bearer(scene.tokens.bad)] });
        expect([withBad.status, arrived(withBad, "authorization")]).toEqual([200, []]);
      });
    });
  });
}

/** An Envoy that gives its connections to Sallyport hardly any room. */
export function narrow(stage: () => Stage): void {
  test("with no dynamic table, small windows and ten streams, many concurrent answers are the same", async () => {
    const { changed, scene } = stage();
    const keepalive = "connection_keepalive: { interval: 30s, timeout: 5s }";
    const small = ["hpack_table_size: 0", "max_concurrent_streams: 10"].concat(
      ["stream", "connection"].map((of) => `initial_${of}_window_size: 65535`),
    );
    const lines = [keepalive, ...small].join("\n            ");
    await changed({ changes: [[keepalive, lines]] }, async ({ port }) => {
      const of = [scene.tokens.good, scene.tokens.bad, scene.tokens.poor];
      const statuses = await Promise.all(
        Array.from({ length: 150 }, async (_, i) => (await ask(port, { headers: [bearer(of[i % 3]!)] })).status),
      );
      expect(statuses).toEqual(statuses.map((_, i) => [200, 401, 403][i % 3]));
    });
  });
}

const websocket = (more: Header): Header[] => [
  ["Connection", "Upgrade"],
  ["Upgrade", "websocket"],
  ["Sec-WebSocket-Version", "13"],
  ["Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="],
  more,
];

/** The status line, and what comes back of `then` where the protocol was switched. */
async function firstLine(port: number, request: string, lines: readonly Header[], then?: string): Promise<string[]> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  const head = [["Host", "edge.example"], ...lines].map(([name, value]) => `${name}: ${value}\r\n`).join("");
  socket.write(`${request}\r\n${head}\r\n`);
  let text = "";
  socket.setEncoding("latin1").on("data", (chunk: string) => {
    text += chunk;
  });
  const until = async (enough: () => boolean) => {
    while (!enough()) await once(socket, "data");
  };
  await until(() => text.includes("\r\n\r\n"));
  const [line = ""] = text.split("\r\n", 1);
  if (!line.includes(" 101 ") || then === undefined) return [line, socket.destroy() && ""];
  socket.write(then);
  await until(() => text.endsWith(then));
  socket.destroy();
  return [line, text.slice(text.indexOf("\r\n\r\n") + 4)];
}
