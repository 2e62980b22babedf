import { connect } from "node:http2";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { describe, expect, test } from "vitest";
import type { Field } from "../../src/http2/wire/field.ts";
import { frameOf, HEADERS, PREFACE, SETTINGS } from "../../src/http2/wire/frame.ts";
import { FrameReader } from "../../src/http2/wire/frame-reader.ts";
import { HpackDecoder, HpackError } from "../../src/http2/wire/hpack.ts";
import { seeded } from "./fixture.ts";
import { indexed, literal } from "./raw-client.ts";

const decodeAll = (decoder: HpackDecoder, block: Buffer): [string, string][] => {
  const fields: [string, string][] = [];
  decoder.decode(block, 0, block.length, { field: (field: Field) => fields.push([field.name, field.value]) });
  return fields;
};
const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ""), "hex");

const request = [
  [":method", "GET"],
  [":scheme", "http"],
  [":path", "/"],
  [":authority", "www.example.com"],
];
const third = [
  [":method", "GET"],
  [":scheme", "https"],
  [":path", "/index.html"],
  [":authority", "www.example.com"],
  ["custom-key", "custom-value"],
];
const response = (status: string, ...rest: string[][]) => [[":status", status], ["cache-control", "private"], ...rest];
const at21 = ["date", "Mon, 21 Oct 2013 20:13:21 GMT"];
const at22 = ["date", "Mon, 21 Oct 2013 20:13:22 GMT"];
const location = ["location", "https://www.example.com"];
const cookie = ["set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"];

describe("RFC 7541 Appendix C", () => {
  test.each([
    ["C.2.1", "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", ["custom-key", "custom-header"]],
    ["C.2.2", "040c 2f73 616d 706c 652f 7061 7468", [":path", "/sample/path"]],
    ["C.2.3", "1008 7061 7373 776f 7264 0673 6563 7265 74", ["password", "secret"]],
    ["C.2.4", "82", [":method", "GET"]],
  ])("%s decodes one field", (_name, block, field) => {
    expect(decodeAll(new HpackDecoder(), hex(block))).toEqual([field]);
  });

  test.each([
    [
      "C.3, requests without Huffman coding",
      4096,
      [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
      ],
      [request, [...request, ["cache-control", "no-cache"]], third],
    ],
    [
      "C.4, requests with Huffman coding",
      4096,
      [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
      ],
      [request, [...request, ["cache-control", "no-cache"]], third],
    ],
    [
      "C.5, responses without Huffman coding and with eviction",
      256,
      [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
      ],
      [
        response("302", at21, location),
        response("307", at21, location),
        response("200", at22, location, ["content-encoding", "gzip"], cookie),
      ],
    ],
    [
      "C.6, responses with Huffman coding and with eviction",
      256,
      [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
      ],
      [
        response("302", at21, location),
        response("307", at21, location),
        response("200", at22, location, ["content-encoding", "gzip"], cookie),
      ],
    ],
  ] as const)("%s", (_name, size, blocks, expected) => {
    const decoder = new HpackDecoder(size);
    expect(blocks.map((block) => decodeAll(decoder, hex(block)))).toEqual(expected);
  });
});

describe("decoding errors", () => {
  test.each([
    ["index 0", "80"],
    ["an index beyond the table", "be"],
    ["an integer that never ends", "ffff ffff ffff ff"],
    ["an integer too large", "7f80 8080 8010"],
    ["a truncated integer", "ff80"],
    ["a truncated string", "0003 6162"],
    ["a missing value", "0001 61"],
    ["a size update above our limit", "3fe2 1f"],
    ["a size update after a field", "8220"],
    ["padding longer than seven bits", "0001 6182 ffff"],
    ["padding that is not ones", "0001 6181 18"],
    ["the end-of-string code", "0001 6184 3fff ffff"],
  ])("%s", (_name, block) => {
    expect(() => decodeAll(new HpackDecoder(), hex(block))).toThrow(HpackError);
  });

  test("two size updates may open a block", () => {
    expect(decodeAll(new HpackDecoder(), hex("20 3fe11f 82"))).toEqual([[":method", "GET"]]);
  });
});

test("a path repeated as a raw literal decodes to the same, and one octet more or less does not", () => {
  const decoder = new HpackDecoder();
  const path = (text: string): Buffer => Buffer.concat([Buffer.of(0x04, text.length), Buffer.from(text)]);
  for (const text of ["/a/b", "/a/b", "/a/c", "/a/bb", "/a/b", "/a/"]) {
    expect(decodeAll(decoder, path(text))).toEqual([[":path", text]]);
  }
});

test("a field larger than the table empties it", () => {
  const decoder = new HpackDecoder(100);
  decodeAll(decoder, literal("a", "b", "incremental"));
  expect(decodeAll(decoder, indexed(62))).toEqual([["a", "b"]]);
  decodeAll(decoder, literal("a", "b".repeat(100), "incremental"));
  expect(() => decodeAll(decoder, indexed(62))).toThrow(HpackError);
});

test("2,000 random requests that Node's client encodes on one connection decode to the same fields", async () => {
  const pick = seeded(41);
  const name = (): string =>
    `x-${Array.from({ length: 1 + pick(12) }, () => "abcdefghijklmnopqrstuvwxyz-0123"[pick(31)]).join("")}`;
  const value = (): string => Array.from({ length: pick(60) }, () => String.fromCharCode(33 + pick(94))).join("");
  const pool = Array.from({ length: 40 }, () => [name(), value()] as const);
  const sent: [string, string][][] = [];
  const seen: [string, string][][] = [];

  const decoder = new HpackDecoder();
  let finished: () => void = () => {};
  const done = new Promise<void>((resolve) => {
    finished = resolve;
  });
  const server = createTcpServer((socket) => {
    const reader = new FrameReader();
    let preface = PREFACE.length;
    socket.write(
      Buffer.concat([
        frameOf(SETTINGS, 0, 0, Buffer.from("000300010000", "hex")),
        frameOf(SETTINGS, 1, 0, Buffer.alloc(0)),
      ]),
    );
    socket.on("error", () => {});
    socket.on("data", (bytes: Buffer) => {
      const skip = Math.min(preface, bytes.length);
      preface -= skip;
      reader.read(bytes, skip, bytes.length, {
        frame(type, _flags, _id, buffer, start, end) {
          if (type === HEADERS) {
            const fields: [string, string][] = [];
            // Node adds a priority block of five octets to none of these requests.
            decoder.decode(buffer, start, end, { field: (field: Field) => fields.push([field.name, field.value]) });
            seen.push(fields.filter(([key]) => !key.startsWith(":")));
            if (seen.length === 2_000) finished();
          }
          return true;
        },
        frameTooLong: () => {},
      });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const session = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  session.on("error", () => {});
  await new Promise((resolve) => session.once("remoteSettings", resolve));
  for (let n = 0; n < 2_000; n++) {
    const fields = new Map<string, string>();
    for (let k = pick(12); k > 0; k--) {
      const [key, old] = pool[pick(pool.length)]!;
      fields.set(key, pick(4) === 0 ? value() : old);
    }
    sent.push([...fields]);
    session.request(Object.fromEntries(fields)).on("error", () => {});
  }
  await done;
  session.destroy();
  server.close();
  expect(seen).toEqual(sent);
});
