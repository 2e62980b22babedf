import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { folder, run, writeConfig } from "../support/program.ts";
import { failure, type Options, TestSallyport } from "../support/sallyport.ts";
import { signingSettings, unpart } from "../support/signing.ts";

/* The life of a signing key in a fleet: published, current, withdrawn; and files that cannot be used. */

const running: { stop(): Promise<void>; remove(): void }[] = [];
afterEach(async () => {
  for (const { stop, remove } of running.splice(0).reverse()) {
    await stop();
    remove();
  }
});

type Settings = ReturnType<typeof signingSettings>;

async function start(settings: Settings, options: Options = {}) {
  const place = folder();
  const file = join(place.path, "signing");
  const write = (text: object | string) => writeFileSync(file, typeof text === "string" ? text : JSON.stringify(text));
  write(settings);
  const config = { signing_file: file, profiles: { pat: { format: "jwt" } }, ...options.config };
  const sallyport = await TestSallyport.start({ ...options, config });
  running.push({ stop: () => sallyport.stop(), remove: () => place.remove() });
  const reload = async (text: object | string, event: string) => {
    write(text);
    const seen = sallyport.program.out.length;
    sallyport.program.kill("SIGHUP");
    await expect.poll(() => sallyport.program.out.slice(seen), { timeout: 20_000 }).toContain(`"${event}"`);
  };
  return { sallyport, reload };
}

const kidOf = (text: string) => unpart(text.split(".")[0]!)["kid"];
const published = async (of: TestSallyport) => {
  const answer = await fetch(`${of.listeners.data}/.well-known/jwks.json`);
  return ((await answer.json()) as { keys: { kid: string }[] }).keys.map(({ kid }) => kid);
};
const withKey = (settings: Settings, id: string, current?: string): Settings => ({
  ...settings,
  keys: { ...settings.keys, [id]: generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" }) as never },
  ...(current !== undefined && { current }),
});

test("a new key signs once every instance has announced it, and until then the old one does", async () => {
  const first = signingSettings();
  const one = await start(first);
  const two = await start(first, { database: one.sallyport.database, keyring: one.sallyport.keyring });
  const fresh = withKey(first, "ed-2", "ed-2");
  await one.reload(fresh, "reloaded");
  expect(await published(one.sallyport)).toEqual(["ed-1", "es-1", "ed-2"]);
  const early = await one.sallyport.createToken();
  expect(kidOf(early.tokenString)).toBe("ed-1");
  expect(await two.sallyport.verdict(early.tokenString)).toBe("ALLOW");
  await two.reload({ ...fresh, current: "ed-1" }, "reloaded");
  const made = async () => (await one.sallyport.createToken()).tokenString;
  let text = "";
  await expect.poll(async () => kidOf((text = await made())), { timeout: 20_000 }).toBe("ed-2");
  expect(await two.sallyport.verdict(text)).toBe("ALLOW");
  expect(await two.sallyport.verdict(early.tokenString)).toBe("ALLOW");

  // Withdrawn, its tokens are refused; the others go on.
  const { "ed-1": _, ...kept } = fresh.keys;
  await one.reload({ ...fresh, keys: kept }, "reloaded");
  expect(await one.sallyport.verdict(early.tokenString)).toBe("INVALID_TOKEN");
  expect(await one.sallyport.verdict(text)).toBe("ALLOW");
}, 90_000);

test("while no other key is known to all, nothing is issued; a rolling upgrade waits like that for old programs", async () => {
  const { sallyport } = await start(signingSettings());
  // As an instance of a program that knows no signing keys.
  await sallyport.sql(
    `insert into sallyport.validators (id, epoch, bound_ms, reader_version, kids, secret_hash)
     select gen_random_uuid(), epoch, 1500, reader_version, '{1}', '\\x00' from sallyport.validators limit 1`,
  );
  const refused = await failure(sallyport.createToken());
  expect(refused).toMatchObject({ reason: "NOT_DONE", message: expect.stringContaining("signing key") });
  expect(await sallyport.sql("select from sallyport.tokens where principal = 'user:ann'")).toEqual([]);
});

test("a key signs only where all instances hold that same key, not another one under its id", async () => {
  const first = signingSettings();
  const { sallyport } = await start(first);
  const keys = { ...first.keys, "ed-1": signingSettings().keys["ed-1"]! };
  await start({ ...first, keys }, { database: sallyport.database, keyring: sallyport.keyring });
  expect(await failure(sallyport.createToken())).toMatchObject({ reason: "NOT_DONE" });
  expect(await sallyport.sql("select from sallyport.tokens where principal = 'user:ann'")).toEqual([]);
});

test("a file that cannot be used raises an alarm, and the old keys stay", async () => {
  const first = signingSettings();
  const { sallyport, reload } = await start(first);
  const { tokenString } = await sallyport.createToken();
  const changed = { ...first, keys: { ...first.keys, "ed-1": withKey(first, "x").keys["x"] } };
  const { "ed-1": _, ...without } = first.keys;
  for (const bad of ["{", "", { ...first, current: "ed-9" }, changed, { ...first, current: {}, keys: without }]) {
    await reload(bad, "reload_rejected");
    expect(await published(sallyport)).toEqual(["ed-1", "es-1"]);
  }
  expect(await sallyport.verdict(tokenString)).toBe("ALLOW");
  expect(await sallyport.verdict((await sallyport.createToken()).tokenString)).toBe("ALLOW");
  expect(sallyport.program.out).not.toContain(String(first.keys["ed-1"]!["d"]));
}, 60_000);

test("a validating sidecar needs only the public halves", async () => {
  const first = signingSettings();
  const { sallyport } = await start(first);
  const keys = Object.fromEntries(Object.entries(first.keys).map(([id, { d: _, ...half }]) => [id, half]));
  const sidecar = await TestSallyport.start({
    ...{ database: sallyport.database, keyring: sallyport.keyring },
    config: { mode: "validate", signing: { issuer: first.issuer, keys }, profiles: { pat: { format: "jwt" } } },
  });
  running.push({ stop: () => sidecar.stop(), remove() {} });
  const made = await sallyport.createToken();
  expect(await sidecar.verdict(made.tokenString)).toBe("ALLOW");
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: made.id } });
  expect(await sidecar.verdict(made.tokenString)).toBe("INVALID_TOKEN");
});

test("keys status shows each key, who knows it, and its live tokens", async () => {
  const settings = signingSettings();
  const profiles = { pat: { format: "jwt", minted_by: ["admin", "token"] } };
  const { sallyport } = await start(settings, { config: { profiles } });
  await sallyport.createToken({ lifetime: { case: "noExpiry", value: true } });
  const revoked = await sallyport.createToken();
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: revoked.id } });
  // Ended by a cut, by their principal, and with a parent.
  await sallyport.createToken({ principal: "user:cut" });
  await sallyport.admin.tokens.revokeTokens({ principal: "user:cut" });
  await sallyport.createToken({ principal: "user:gone" });
  await sallyport.admin.principals.deletePrincipal({ name: "user:gone" });
  const parent = await sallyport.createToken({ scopes: ["sallyport.tokens.create", "a"] });
  await sallyport.createToken({ scopes: ["a"] }, sallyport.as(parent.tokenString));
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: parent.id } });
  const place = folder();
  running.push({ stop: async () => {}, remove: () => place.remove() });
  const { "es-1": _, ...keys } = settings.keys;
  const file = writeConfig(place.path, {
    ...{
      keyring: sallyport.keyring,
      signing: { ...withKey({ ...settings, keys: keys as never }, "ed-2"), current: "ed-1" },
    },
    database: { url: sallyport.database.url, allow_fsync_off: true },
  });
  const { code, out, err } = await run(["keys", "status", "--config", file]);
  expect([code, err]).toEqual([0, ""]);
  const lines = out
    .trim()
    .split("\n")
    .map((line) => line.split("\t"));
  expect(lines).toEqual([
    ["pepper", "1", "current", "instances=1/1", "live=2", expect.stringMatching(/^last=(never|20)/)],
    ["EdDSA", "ed-1", "current", "instances=1/1", "live=1", "last=never"],
    ["EdDSA", "ed-2", "kept", "instances=0/1", "live=0", "last=-"],
  ]);
});
