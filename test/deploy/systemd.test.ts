import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, test } from "vitest";
import { freshDatabase } from "../support/postgres.ts";
import { FREE_PORTS, folder, freshKeyring, listenersOf, Program, writeConfig } from "../support/program.ts";

const ROOT = join(import.meta.dirname, "../..");
const UNIT = join(ROOT, "deploy/systemd/sallyport.service");
const has = (program: string) => spawnSync(program, ["--version"]).status === 0;
const values = (key: string) =>
  readFileSync(UNIT, "utf8")
    .split("\n")
    .filter((line) => line.startsWith(`${key}=`))
    .map((line) => line.slice(key.length + 1));

test("the unit starts the server with the flags of npm start", () => {
  const { start } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).scripts as { start: string };
  const flags = (command: string) => command.match(/ --\S+/g)!.filter((flag) => flag !== " --config");
  expect(flags(values("ExecStart")[0]!)).toEqual(flags(start));
});

test("the unit does not restart after an operator's mistake", () => {
  expect(values("RestartPreventExitStatus")).toEqual(["2 78"]);
});

test("the unit is restarted for ever while the database is away", () => {
  expect(values("Restart")).toEqual(["on-failure"]);
  expect(values("StartLimitIntervalSec")).toEqual(["0"]);
});

test.skipIf(!has("systemd-analyze"))(
  "systemd-analyze, if it is installed, rates the unit's exposure at most 2.0",
  () => {
    const flags = ["security", "--offline=true", "--no-pager", "--threshold=20", UNIT];
    const report = execFileSync("systemd-analyze", flags, { encoding: "utf8" });
    expect(report).toMatch(/Overall exposure level for sallyport\.service: [01]\.\d/);
  },
);

/** The messages that arrive on a datagram socket, a line each. Node has no such sockets. */
async function receiver(path: string) {
  const program = `use IO::Socket::UNIX; use Socket; $| = 1;
    my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die $!; print "open\\n";
    while (defined $s->recv(my $m, 4096)) { $m =~ s/\\n/ /g; print "$m\\n" }`;
  const perl = spawn("perl", ["-e", program, path], { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface(perl.stdout)[Symbol.asyncIterator]();
  await lines.next();
  return {
    /**
     * The next message that is not a barrier. systemd-notify waits with a barrier until systemd has read the message.
     */
    async next(): Promise<string> {
      for (;;) {
        const { value } = await lines.next();
        if (!String(value).startsWith("BARRIER")) return String(value).trim();
      }
    },
    async close() {
      perl.kill("SIGKILL");
      await once(perl, "exit");
    },
  };
}

const serving = async (path: string) => {
  const database = await freshDatabase();
  return [
    "serve",
    "--config",
    writeConfig(path, {
      listeners: FREE_PORTS,
      database: { url: database.url, allow_fsync_off: true },
      keyring: freshKeyring(),
    }),
  ];
};

test.skipIf(!has("systemd-notify") || !has("perl"))(
  "systemd is sent READY=1 after the start and STOPPING=1 at the stop, where systemd-notify and Perl are installed",
  async () => {
    const place = folder();
    const path = join(place.path, "notify");
    const systemd = await receiver(path);
    const program = new Program(await serving(place.path), { NOTIFY_SOCKET: path });
    try {
      expect(await systemd.next()).toBe("READY=1");
      await listenersOf(program);
      program.kill("SIGTERM");
      expect(await systemd.next()).toBe("STOPPING=1");
      expect(await program.exited).toBe(0);
    } finally {
      program.kill("SIGKILL");
      await systemd.close();
      place.remove();
    }
  },
);

test("if systemd cannot be notified the server runs, and a warning gives the reason", async () => {
  const place = folder();
  const program = new Program(await serving(place.path), { NOTIFY_SOCKET: "/run/systemd/notify", PATH: place.path });
  try {
    await listenersOf(program);
    await program.until(({ out }) => out.includes("systemd was not sent READY=1"), "the warning");
    program.kill("SIGTERM");
    expect(await program.exited).toBe(0);
  } finally {
    program.kill("SIGKILL");
    place.remove();
  }
});
