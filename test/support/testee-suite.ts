import { once } from "node:events";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { TestSallyport } from "./sallyport.ts";
import type { TcpProxy } from "./tcp-proxy.ts";
import { end, said, type Testee } from "./testee.ts";

interface Around {
  /** With a tenant `another`. */
  readonly sallyport: TestSallyport;
  /** The way from the testee to it. */
  readonly path: TcpProxy;
}

/**
 * What every client does, with its echo service and a real server. `blocked`: the status of a stream whose handler is
 * blocked; `ending`: what the service prints at its end.
 */
export function testeeSuite(
  of: () => Around,
  start: (cache: "off" | "feed") => Promise<Testee>,
  { blocked = "16 INVALID_TOKEN", ending = { left: 1 } as Readonly<Record<string, number>> } = {},
): void {
  let sallyport: TestSallyport;
  let path: TcpProxy;
  const revoke = (id: string) => sallyport.admin.tokens.revokeToken({ target: { case: "id", value: id } });
  let off: Testee;
  let feed: Testee;
  beforeAll(async () => {
    ({ sallyport, path } = of());
    off = await start("off");
    feed = await start("feed");
  });
  afterAll(() => {
    off?.kill();
    feed?.kill();
  });

  test("follows the feed", async () => {
    // A program that has just started may be too slow for the time of a check.
    for (const testee of [off, feed])
      await expect.poll(() => testee.call("Say", "opaque"), { timeout: 20_000 }).toBe("16 INVALID_TOKEN");
    await expect.poll(() => feed.seen("lease"), { timeout: 20_000 }).toBeGreaterThan(0);
  });

  test("admits a live token; the handler sees its identity, and not the credential", async () => {
    const { tokenString } = await sallyport.createToken({ scopes: ["orders.*"] });
    expect(await off.call("Say", tokenString)).toBe(said("hi"));
    expect(await off.call("Write", tokenString)).toBe(said("hi"));
    expect(await off.total(tokenString, ["one", "two"])).toBe(said("one two"));
    expect(await feed.call("Say", tokenString)).toBe(said("hi"));
    expect(await feed.total(tokenString, ["one", "two"])).toBe(said("one two"));
  });

  test("refuses others, each with its status, and the verdict in a trailer", async () => {
    const narrow = await sallyport.createToken({ scopes: ["orders.read"], audiences: ["stock"] });
    const wide = await sallyport.createToken({ scopes: ["orders.read"] });
    const far = await sallyport.createToken({ allowedCidrs: ["192.0.2.0/24"] });
    const near = await sallyport.createToken({ allowedCidrs: ["127.0.0.0/8"] });
    for (const testee of [off, feed]) {
      expect(await testee.call("Say")).toBe("16 NO_CREDENTIAL");
      expect(await testee.call("Say", "sp_pat_nonsense")).toBe("16 INVALID_TOKEN");
      expect(await testee.call("Say", "opaque")).toBe("16 INVALID_TOKEN");
      expect(await testee.call("Audience", narrow.tokenString)).toBe("16 WRONG_AUDIENCE");
      expect(await testee.call("Write", wide.tokenString)).toBe("7 INSUFFICIENT_SCOPE");
      expect(await testee.call("Tenant", wide.tokenString)).toBe("7 WRONG_TENANT");
      expect(await testee.call("Say", far.tokenString)).toBe("7 ADDRESS_NOT_ALLOWED");
      expect(await testee.call("Say", near.tokenString)).toBe(said("hi"));
      expect(await testee.total("opaque", ["one"])).toBe("16 INVALID_TOKEN");
      expect(await end(testee.talk("opaque"))).toBe("16 INVALID_TOKEN");
    }
  });

  test("admits a token in a further tenant until it is detached", async () => {
    for (const testee of [off, feed]) {
      const { tokenString, id } = await sallyport.createToken({ tenants: ["another"] });
      for (const method of ["Say", "Tenant"]) expect(await testee.call(method, tokenString)).toBe(said("hi"));
      await sallyport.admin.tokens.detachTenant({ tenant: "another", id });
      expect(await testee.call("Tenant", tokenString)).toBe("7 WRONG_TENANT");
      expect(await testee.call("Say", tokenString)).toBe(said("hi"));
    }
  });

  test("accepts no token after its revocation returned OK, from the cache or otherwise", async () => {
    const before = await feed.seen("cache ALLOW");
    let accepted = 0;
    for (let round = 0; round < 25; round++) {
      const { tokenString, id } = await sallyport.createToken();
      let revoked = false;
      // Calls that are under way all the time; each notes if the revocation had returned when it began.
      const loop = async () => {
        for (let after = 0; after < 3; ) {
          const began = revoked;
          const answer = await feed.call("Say", tokenString);
          if (began && answer === said("hi")) accepted++;
          if (began) after++;
        }
      };
      const loops = Array.from({ length: 4 }, loop);
      await expect.poll(() => feed.call("Say", tokenString)).toBe(said("hi"));
      await revoke(id);
      revoked = true;
      expect(await feed.call("Say", tokenString)).toBe("16 INVALID_TOKEN");
      await Promise.all(loops);
    }
    expect(accepted).toBe(0);
    expect((await feed.seen("cache ALLOW")) - before).toBeGreaterThan(25);
  });

  test("passes the messages of a stream, and ends the stream when its token is revoked", async () => {
    for (const testee of [off, feed]) {
      const { tokenString, id } = await sallyport.createToken();
      const stream = testee.talk(tokenString);
      stream.write("one");
      expect(await once(stream, "data")).toEqual([said("one")]);
      const ended = end(stream); // a silent stream: nobody writes
      await revoke(id);
      expect(await ended).toBe("16 INVALID_TOKEN");
      await expect.poll(() => testee.seen("ended INVALID_TOKEN")).toBeGreaterThan(0);
    }
  });

  test("passes no message after the revocation returned OK", async () => {
    const { tokenString, id } = await sallyport.createToken();
    const stream = feed.talk(tokenString);
    stream.write("one");
    await once(stream, "data");
    const late: string[] = [];
    const ended = end(stream);
    await revoke(id);
    stream.on("data", (text) => late.push(text));
    stream.write("two");
    expect(await ended).toBe("16 INVALID_TOKEN");
    expect(late).toEqual([]);
  });

  test("ends streams of a server that sends all the time, and of a handler that is blocked", async () => {
    const { tokenString, id } = await sallyport.createToken();
    const [count, stuck] = [feed.read("Count", tokenString), feed.read("Stuck", tokenString)];
    count.on("data", () => {});
    expect(await once(stuck, "data")).toEqual([said("hi")]);
    const ended = Promise.all([end(count), end(stuck)]);
    await revoke(id);
    expect(await ended).toEqual(["16 INVALID_TOKEN", blocked]);
  });

  test("passes nothing more from a handler that goes on after the end, and the status of one that aborts", async () => {
    const { tokenString, id } = await sallyport.createToken();
    const gone = feed.read("Gone", tokenString);
    expect(await once(gone, "data")).toEqual([said("hi")]);
    expect(await end(gone)).toBe("5 undefined");
    const stream = feed.talk(tokenString, "Stubborn");
    stream.write("one");
    const texts: string[] = [];
    stream.on("data", (text) => texts.push(text));
    await once(stream, "data");
    const ended = end(stream);
    await revoke(id);
    expect(await ended).toBe("16 INVALID_TOKEN");
    expect(texts).toEqual([said("one")]);
  });

  test("ends well a stream that ends by itself", async () => {
    const stream = feed.talk((await sallyport.createToken()).tokenString);
    const texts: string[] = [];
    stream.on("data", (text) => texts.push(text));
    for (const text of ["one", "two"]) stream.write(text);
    stream.end();
    await once(stream, "end");
    expect(texts).toEqual([said("one"), said("two")]);
  });

  test("accepts nothing after OK with the feed cut; it ends streams, and follows again once the feed is mended", async () => {
    const [one, two] = [await sallyport.createToken(), await sallyport.createToken()];
    await expect.poll(() => feed.call("Say", one.tokenString)).toBe(said("hi"));
    const stream = feed.talk(two.tokenString);
    stream.write("one");
    await once(stream, "data");
    const ended = end(stream);
    await path.set({ kind: "blackhole" });
    const begun = performance.now();
    await revoke(one.id); // waits until the client's lease is over
    expect(await feed.call("Say", one.tokenString)).toBe("14 UNDETERMINED");
    expect(await ended).toBe("14 UNDETERMINED");
    expect(performance.now() - begun).toBeLessThan(10_000);
    const leases = await feed.seen("lease");
    // The old connections have lost bytes, so they must break.
    await path.set({ kind: "reset" });
    await path.set({ kind: "pass" });
    await expect.poll(() => feed.seen("lease"), { timeout: 20_000 }).toBeGreaterThan(leases);
    await expect.poll(() => feed.call("Say", two.tokenString), { timeout: 20_000 }).toBe(said("hi"));
    expect(await feed.call("Say", one.tokenString)).toBe("16 INVALID_TOKEN");
  });

  test("leaves the feed in good order", async () => {
    expect(await feed.stop()).toEqual(ending);
  });
}
