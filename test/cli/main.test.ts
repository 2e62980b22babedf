import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TokenAdmin } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { apiError, Code, cli, peer } from "./peer.ts";

const home = process.cwd();
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sallyport-cli-"));
  process.chdir(folder);
});
afterAll(async () => {
  process.chdir(home);
  await rm(folder, { recursive: true, force: true });
});

const listener = (socketPath?: string) =>
  peer((router) => router.service(TokenAdmin, { listTokens: () => ({ tokens: [] }) }), socketPath);

describe("help", () => {
  it("lists every command with a line each, including the server's own", async () => {
    const { exit, out, err } = await cli(["--help"]);
    expect([exit, err]).toEqual([0, ""]);
    const words = [
      "serve",
      "migrate",
      "bootstrap",
      "check-config",
      "tokens",
      "principals",
      "tenants",
      "roles",
      "audit",
      "validate",
    ];
    for (const word of words) expect(out).toMatch(new RegExp(`^  ${word}( \\[options\\])? {2,}\\S`, "m"));
    expect(out).toContain("./data/admin-token if it exists");
  });

  it.each([
    ["tokens", ["create", "get", "list", "update", "rotate", "revoke", "revoke-many"]],
    ["principals", ["create", "get", "list", "update", "delete"]],
    ["tenants", ["create", "get", "list", "update"]],
    ["roles", ["create", "get", "list", "update", "delete"]],
    ["audit", ["list"]],
  ])("%s lists its commands", async (noun, verbs) => {
    const { exit, out } = await cli([noun, "--help"]);
    expect(exit).toBe(0);
    for (const verb of verbs) expect(out).toMatch(new RegExp(`^  ${verb} `, "m"));
  });

  it.each([
    [[]],
    [["tokens"]],
    [["wrong"]],
    [["tokens", "lits"]],
    [["--json", "serve"]],
    [["tokens", "list", "--timeout", "soon"]],
  ])("%j is a usage error, said on stderr", async (argv) => {
    const { exit, out, err } = await cli(argv);
    expect([exit, out]).toEqual([2, ""]);
    expect(err).not.toBe("");
  });
});

describe("credential", () => {
  const authorizationOf = async (argv: string[], env: Record<string, string>) => {
    await using admin = await listener();
    const { exit } = await cli(["tokens", "list", "--address", admin.address, ...argv], { env });
    return { exit, authorization: admin.headers[0]?.authorization };
  };

  it("is --token-file, else SALLYPORT_TOKEN, else the embedded file, else none", async () => {
    await writeFile("mine", "from-a-file\n");
    const sends = (authorization?: string) => ({ exit: 0, authorization });
    expect(await authorizationOf([], { SALLYPORT_TOKEN: "" })).toEqual(sends());
    await mkdir("data");
    await writeFile("data/admin-token", "embedded\n", { mode: 0o600 });
    expect(await authorizationOf([], { SALLYPORT_TOKEN: "" })).toEqual(sends("Bearer embedded"));
    expect(await authorizationOf([], { SALLYPORT_TOKEN: "of-the-environment" })).toEqual(
      sends("Bearer of-the-environment"),
    );
    expect(await authorizationOf(["--token-file", "mine"], {})).toEqual(sends("Bearer from-a-file"));
  });

  it.each(["", "two words", "two\nlines", "späßchen"])(
    "must be one word: %j is refused and not shown",
    async (text) => {
      await writeFile("bad", text);
      const { exit, err } = await cli(["tokens", "list", "--token-file", "bad"]);
      expect(exit).toBe(2);
      expect(err).toBe("sallyport: the token file bad must hold one token string, on one line\n");
    },
  );

  it("may be a session, with the tenant in which it calls: flags beat the environment, which beats the file", async () => {
    await writeFile("jwt", "a.b.c\n");
    await writeFile("mine", "from-a-file\n");
    await using admin = await listener();
    const sent = async (argv: string[], env: Record<string, string>) => {
      const { exit, err } = await cli(["tokens", "list", "--address", admin.address, ...argv], { env });
      const { authorization, "x-sallyport-tenant": tenant } = admin.headers.at(-1) ?? {};
      return exit === 0 ? [authorization, tenant] : [exit, err];
    };
    const none = { SALLYPORT_TOKEN: "" };
    expect(await sent(["--session-file", "jwt"], none)).toEqual(["Bearer a.b.c", undefined]);
    expect(await sent(["--session-file", "jwt", "--session-tenant", "acme"], none)).toEqual(["Bearer a.b.c", "acme"]);
    expect(await sent(["--session-file", "jwt"], { SALLYPORT_TOKEN: "t" })).toEqual(["Bearer a.b.c", undefined]);
    const session = { ...none, SALLYPORT_SESSION: "d.e.f" };
    expect(await sent([], session)).toEqual(["Bearer d.e.f", undefined]);
    expect(await sent(["--session-tenant", "acme"], session)).toEqual(["Bearer d.e.f", "acme"]);
    const inAcme = { ...session, SALLYPORT_SESSION_TENANT: "acme" };
    expect(await sent([], inAcme)).toEqual(["Bearer d.e.f", "acme"]);
    expect(await sent(["--session-tenant", "globex"], inAcme)).toEqual(["Bearer d.e.f", "globex"]);
    // The tenant of the request is another thing: an operator's session lists those of every tenant.
    for (const tenant of ["acme", "-"]) {
      expect(await sent(["--tenant", tenant], session)).toEqual(["Bearer d.e.f", undefined]);
      expect(await sent(["--tenant", tenant], { ...session, SALLYPORT_SESSION_TENANT: "home" })).toEqual([
        "Bearer d.e.f",
        "home",
      ]);
    }
    expect(await sent(["--token-file", "mine", "--session-tenant", "acme"], session)).toEqual([
      "Bearer from-a-file",
      undefined,
    ]);
    await mkdir("data", { recursive: true });
    await writeFile("data/admin-token", "embedded\n", { mode: 0o600 });
    expect(await sent([], session)).toEqual(["Bearer d.e.f", undefined]);
    expect(await sent(["--token-file", "mine", "--session-file", "jwt"], none)).toEqual([
      2,
      "sallyport: give --token-file or --session-file, not both\n",
    ]);
    expect(await sent([], { SALLYPORT_TOKEN: "t", SALLYPORT_SESSION: "d.e.f" })).toEqual([
      2,
      "sallyport: give SALLYPORT_TOKEN or SALLYPORT_SESSION, not both\n",
    ]);
    await writeFile("bad", "two words");
    expect(await sent(["--session-file", "bad"], none)).toEqual([
      2,
      "sallyport: the session file bad must hold one JWT, on one line\n",
    ]);
    expect(await cli(["validate", "--session-file", "jwt"], { stdin: "x" })).toMatchObject({ exit: 2 });
  });

  it("names the file whose token the listener refuses, or reports that there was none", async () => {
    await using admin = await peer((router) =>
      router.service(TokenAdmin, {
        listTokens: () => {
          throw apiError(Code.Unauthenticated, "CALLER_UNAUTHENTICATED", "no");
        },
      }),
    );
    await writeFile("mine", "from-a-file\n");
    const { exit, err } = await cli(["tokens", "list", "--address", admin.address, "--token-file", "mine"]);
    expect(exit).toBe(1);
    expect(err).toContain("does not accept the credential of the file mine");
    expect(err).not.toContain("from-a-file");
  });
});

describe("address", () => {
  it("is --address, else SALLYPORT_ADDRESS; a unix socket too", async () => {
    await using tcp = await listener();
    await using unix = await listener(join(folder, "admin.sock"));
    expect(await cli(["tokens", "list"], { env: { SALLYPORT_ADDRESS: unix.address } })).toMatchObject({ exit: 0 });
    expect(
      await cli(["--address", tcp.address, "tokens", "list"], { env: { SALLYPORT_ADDRESS: unix.address } }),
    ).toMatchObject({
      exit: 0,
    });
    expect([tcp.headers.length, unix.headers.length]).toEqual([1, 1]);
  });

  it.each(["127.0.0.1:7401", "unix:relative", "ftp://x", "http://", "http://user@host"])(
    "refuses %j",
    async (address) =>
      expect(await cli(["tokens", "list", "--address", address])).toMatchObject({
        exit: 2,
        err: "sallyport: --address must be http://host:port, https://host:port or unix:/path\n",
      }),
  );

  it("asks if Sallyport is running when nothing answers", async () => {
    const gone = await listener();
    await gone[Symbol.asyncDispose]();
    for (const address of [gone.address, `unix:${folder}/no.sock`]) {
      const { exit, out, err } = await cli(["tokens", "list", "--address", address]);
      expect([exit, out]).toEqual([69, ""]);
      expect(err).toBe(`sallyport: nothing answers at ${address}: is Sallyport running? Start it with: npm start\n`);
    }
  });

  it("sends its time limit to the listener: --timeout, by default 15 s", async () => {
    await using admin = await listener();
    await cli(["tokens", "list", "--address", admin.address]);
    await cli(["tokens", "list", "--address", admin.address, "--timeout", "1m"]);
    expect(admin.headers.map((headers) => headers["connect-timeout-ms"])).toEqual(["15000", "60000"]);
  });

  it("gives up after --timeout, and explains how to repeat a change", async () => {
    const silent = createServer((socket) => socket.resume().on("error", () => undefined));
    await new Promise<void>((resolve) => silent.listen(join(folder, "silent.sock"), resolve));
    const target = ["--address", `unix:${folder}/silent.sock`, "--timeout", "50ms"];
    const read = await cli(["tokens", "list", ...target]);
    expect(read.exit).toBe(69);
    expect(read.err).toMatch(/no answer .* in time .*; try again\n$/);
    const change = await cli(["tokens", "revoke", "tok_1", ...target]);
    expect(change.err).toMatch(/may or may not have happened: safe to repeat\n$/);
    await new Promise((resolve) => silent.close(resolve));
  });

  it("reports an answer that does not come from a Sallyport listener", async () => {
    await using other = await peer(() => undefined);
    const { exit, err } = await cli(["tokens", "list", "--address", other.address]);
    expect(exit).toBe(69);
    expect(err).toContain("is it the right listener? (admin 7401, data 7400)");
  });
});
