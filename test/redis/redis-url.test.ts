import { expect, test } from "vitest";
import { StartError } from "../../src/domain/start-error.ts";
import { parseRedisUrl } from "../../src/redis/redis-url.ts";

const server = { kind: "server", tls: false, db: 0, master: "" };

test.each([
  ["redis://localhost", { ...server, hosts: [{ host: "localhost", port: 6379 }] }],
  ["redis://127.0.0.1:7000/3", { ...server, hosts: [{ host: "127.0.0.1", port: 7000 }], db: 3 }],
  ["redis://[::1]:7000", { ...server, hosts: [{ host: "::1", port: 7000 }] }],
  [
    "rediss://me:p%40ss%3A%2F@cache.example:6380/",
    { ...server, tls: true, hosts: [{ host: "cache.example", port: 6380 }], username: "me", password: "p@ss:/" },
  ],
  ["redis://:secret@h", { ...server, hosts: [{ host: "h", port: 6379 }], password: "secret" }],
  [
    "redis-cluster://u:p@a:1,b:2,c",
    {
      ...server,
      kind: "cluster",
      hosts: [
        { host: "a", port: 1 },
        { host: "b", port: 2 },
        { host: "c", port: 6379 },
      ],
      username: "u",
      password: "p",
    },
  ],
  [
    "rediss-sentinel://a,b:2/main/1",
    {
      kind: "sentinel",
      tls: true,
      hosts: [
        { host: "a", port: 26379 },
        { host: "b", port: 2 },
      ],
      db: 1,
      master: "main",
    },
  ],
])("%s is read", (url, address) => {
  expect(parseRedisUrl(url)).toEqual({ ...address, names: expect.any(Array) });
});

test("certificates may be for the host names of the URL, and for those of server_name", () => {
  const names = (url: string) => parseRedisUrl(url).names;
  expect(names("rediss-cluster://a.example:1,10.0.0.1,[::1]:2,b")).toEqual(["a.example", "b"]);
  expect(names("rediss-sentinel://10.0.0.1/main?server_name=r1.example,r2.example")).toEqual([
    "r1.example",
    "r2.example",
  ]);
  expect(names("rediss://u:p@h/1?server_name=x")).toEqual(["h", "x"]);
  for (const url of ["redis://h?server_name=x", "rediss://h?server_name=", "rediss://h?other=x"])
    expect(() => parseRedisUrl(url), url).toThrow(/redis\.url/);
});

test.each([
  "",
  "localhost:6379",
  "http://u:hunter2@h",
  "redis://",
  "redis://u:hunter2@",
  "redis://u:hunter2@a,b",
  "redis://u:hunter2@h:0",
  "redis://u:hunter2@h:65536",
  "redis://u:hunter2@h:x",
  "redis://u:hunter2@h/x",
  "redis://u:hunter2@h/1/2",
  "redis://u:hunter2%zz@h",
  "redis://u:hunter2@h?tls=1",
  "redis-cluster://u:hunter2@a,b/1",
  "redis-sentinel://u:hunter2@a,b",
  "redis-sentinel://u:hunter2@a,b//1",
])("%j is refused without telling its password", (url) => {
  const error = (() => {
    try {
      parseRedisUrl(url);
    } catch (caught) {
      return caught as Error;
    }
  })();
  expect(error).toBeInstanceOf(StartError);
  expect(String(error)).not.toContain("hunter2");
});
