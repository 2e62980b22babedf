// What is fed with structured damage, and what must hold for each piece. A target throws where something does not.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { stringify } from "yaml";
import { PageTokens } from "../../src/admin-api/page-token.ts";
import { loadConfig } from "../../src/config/load.ts";
import { redacted } from "../../src/config/print.ts";
import { type CheckFacts, decodeCheck } from "../../src/data-plane/check/check-request.ts";
import { questionAt, walk } from "../../src/data-plane/validate-token.ts";
import { AppError } from "../../src/domain/errors.ts";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import { entryName, open, seal } from "../../src/domain/sealed-entry.ts";
import { StartError } from "../../src/domain/start-error.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import { hasRightTag, mintTokenString, parseTokenString } from "../../src/domain/token-string.ts";
import { ValidateTokenRequestSchema } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { bearerOf } from "../../src/rpc/bearer.ts";
import { readCheck } from "../data-plane/read-check.ts";
import { EPOCH, snapshot } from "../support/token-snapshot.ts";
import { checkRequest, questionFields } from "./messages.ts";
import { damaged, damagedText, many, one, type Pick, text } from "./pick.ts";

export type Target = (pick: Pick) => void;

const pepper = (): string => freshKeyring().keys["1"]!;
const keyring = new Keyring("1", { "1": pepper(), b: pepper(), Z: pepper() });
const BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/** Only what was minted has a shape with a right tag; whatever else comes is refused, and never throws. */
function tokenString(pick: Pick): void {
  const keys = keyring.get(one(pick, keyring.kids()))!;
  const prefix = one(pick, ["sp_pat", "a1", "x_y_z", "abcdefghijklmnop"]);
  const minted = mintTokenString(prefix, keys);
  const good = minted.tokenString.reveal();
  const parsed = parseTokenString(good, keyring);
  assert.ok(parsed !== undefined && parsed.digest === minted.digest && hasRightTag(good, parsed.keys));
  const bad = damagedText(pick, good, `${BASE62}_-=. `);
  const read = parseTokenString(bad, keyring);
  if (bad === good || read === undefined) return;
  // The CRC is no secret: what matches it may have the shape, and then the tag must refuse it.
  assert.ok(!hasRightTag(bad, read.keys), "a forged string has a right tag");
}

const NO_TARGET = { method: "", host: "", path: "", workload: "" };

/** The question read by hand is what the library reads; what the library refuses is not taken. */
function validateQuestion(pick: Pick): void {
  const fields = Buffer.concat(questionFields(pick));
  const bytes = pick(2) === 0 ? fields : damaged(pick, fields);
  const copy = Buffer.from(bytes);
  const places = walk(copy);
  const walked = places && questionAt(copy, places);
  if (walked === undefined) return;
  const {
    tokenString,
    requiredScopes: scopes,
    audience,
    tenant,
    context,
  } = fromBinary(ValidateTokenRequestSchema, bytes);
  const { clientAddress = "", method = "", host = "", path = "", workload = "" } = context ?? {};
  const target = { method, host, path, workload };
  const read = { ...walked, target: walked.target ?? NO_TARGET };
  assert.deepEqual(read, { tokenString, scopes, audience, tenant, clientAddress, target });
}

/** The same for what Envoy asks. Damage may be passed over where nobody looks; it may not end in anything but an Error. */
function envoyQuestion(pick: Pick): void {
  const whole = checkRequest(pick);
  const attempt = (bytes: Uint8Array): CheckFacts | undefined => {
    try {
      return readCheck(bytes);
    } catch (error) {
      assert.ok(error instanceof Error);
      return undefined;
    }
  };
  attempt(damaged(pick, whole));
  let wanted: CheckFacts;
  try {
    wanted = decodeCheck(whole);
  } catch {
    return; // text that is none, which the walk may not have looked at
  }
  assert.deepEqual(attempt(whole), wanted);
}

/** A page token opens to what it was issued for, with what it was bound to; anything else is INVALID_PAGE_TOKEN. */
function pageToken(pick: Pick): void {
  const pages = new PageTokens(keyring);
  const start = { time: pick(2 ** 31) * 1_000, key: text(pick).toWellFormed() };
  const binding = many(pick, 4, () => text(pick).toWellFormed());
  const issued = pages.issue(start, binding);
  assert.deepEqual(pages.open(issued, binding), start);
  const opens = (pageToken: string, bound: readonly string[]): unknown => {
    try {
      return pages.open(pageToken, bound);
    } catch (error) {
      assert.ok(error instanceof AppError && error.reason === "INVALID_PAGE_TOKEN", String(error));
      return "refused";
    }
  };
  const bad = damagedText(pick, issued, `${BASE62}-_+/=!`);
  const found = opens(bad, binding);
  // base64url has several spellings of the same octets.
  if (bad !== "" && found !== "refused") assert.deepEqual(found, start);
  if (bad !== "" && found !== "refused")
    assert.ok(Buffer.from(bad, "base64url").equals(Buffer.from(issued, "base64url")));
  const other = one(pick, [[...binding, ""], binding.slice(1), [binding.join("")], ["x", ...binding]]);
  if (JSON.stringify(other) !== JSON.stringify(binding)) assert.equal(opens(issued, other), "refused");
  opens(text(pick), binding);
}

/** A sealed entry opens under its own name, digest and epoch, unchanged, or not at all. */
function sealedEntry(pick: Pick): void {
  const keys = keyring.get(one(pick, keyring.kids()))!;
  const digest = Buffer.from(many(pick, 0, () => 0).concat(Array.from({ length: 32 }, () => pick(256)))).toString(
    "latin1",
  );
  const facts: TokenSnapshot = snapshot(pick(2 ** 31), {
    digest,
    scopes: many(pick, 4, () => text(pick).toWellFormed()),
    annotations: JSON.parse(`{${pick(2) === 0 ? '"__proto__":"x"' : ""}}`),
    expire: pick(2) === 0 ? undefined : pick(2 ** 31),
    notBefore: undefined,
    parent: undefined,
    revoked: pick(2) === 0,
  });
  const name = entryName(keys, EPOCH, digest);
  const value = seal(facts, name, keys, pick(2 ** 31) * 1_000);
  const wanted = { digest, epoch: EPOCH };
  assert.deepEqual(open(value, name, wanted, keyring), facts);
  const bad = damaged(pick, value);
  if (!bad.equals(value)) assert.equal(open(bad, name, wanted, keyring), undefined);
  assert.equal(open(value, damaged(pick, name).subarray(0, 31), wanted, keyring), undefined);
  assert.equal(open(value, name, { digest, epoch: `${EPOCH}1` }, keyring), undefined);
  const others = damaged(pick, Buffer.from(digest, "latin1")).toString("latin1");
  if (others !== digest) assert.equal(open(value, name, { digest: others, epoch: EPOCH }, keyring), undefined);
  assert.equal(open(Buffer.from(many(pick, 90, () => pick(256))), name, wanted, keyring), undefined);
}

const B64TOKEN = /^[A-Za-z0-9._~+/=-]+$/;

/** A header gives one credential of the grammar, which stands in it whole, or none; and at once, however long it is. */
function bearer(pick: Pick): void {
  const credential = many(pick, 20, () => one(pick, [...BASE62, ".", "_", "~", "+", "/", "=", "-"])).join("");
  const header = one(pick, ["Bearer ", "bearer ", "BEARER   ", "Basic ", ""]) + credential;
  const long = pick(50) === 0 ? one(pick, [" ", "a", "=", "Bearer "]).repeat(pick(20_000)) : "";
  const value = damagedText(pick, header, `${BASE62} ,;\t=`) + long;
  const from = performance.now();
  let found: string | undefined;
  try {
    found = bearerOf(value);
  } catch (error) {
    assert.ok(error instanceof AppError && error.reason === "CALLER_UNAUTHENTICATED");
    if (credential.length > 4) assert.ok(!error.message.includes(credential), "the error holds the credential");
  }
  assert.ok(performance.now() - from < 500, "it took long");
  if (found === undefined) return;
  assert.match(found, B64TOKEN);
  assert.match(value.slice(0, value.length - found.length), /^bearer +$/i);
  assert.ok(value.endsWith(found));
}

const SECRET = "CANARY0123456789abcdefghijklmnopqrstuvwxyz";

function configTree(pick: Pick): Record<string, unknown> {
  const value = (): unknown =>
    one<() => unknown>(pick, [
      () => text(pick).toWellFormed(),
      () => pick(2 ** 20) - 5,
      () => pick(2) === 0,
      () => null,
      () => [],
      () => ({}),
      () => many(pick, 3, value),
      () => ({ [text(pick).toWellFormed()]: value() }),
      () => one(pick, ["1500ms", "0s", "999999999999d", "64 MiB", "127.0.0.1:0", "unix:/x", "[::]:1", "0777", "NaN"]),
    ])();
  const tree: Record<string, unknown> = {
    mode: "full",
    listeners: { data: { bind: "127.0.0.1:0", unix_mode: "0600" }, admin: { tls: { cert_file: "c", key_file: "k" } } },
    database: { url: `postgres://u:${SECRET}@localhost/x` },
    redis: { url: `redis://:${SECRET}@localhost` },
    keyring: { current: "1", keys: { "1": SECRET } },
    break_glass: { secret: SECRET },
    profiles: { pat: { max_ttl: "1d" } },
    policies: { web: { required_scopes: ["a"], carriers: ["bearer", "header:x-token"] } },
    revocation: { lease: "1500ms", poll: "400ms" },
    callers: { mtls: [{ san: "spiffe://x", tenant: "default", permissions: ["sallyport.admin"] }] },
  };
  for (let n = pick(5); n > 0; n--) {
    let at: Record<string, unknown> = tree;
    for (let depth = pick(4); depth > 0; depth--) {
      const inner = Object.values(at).filter((v) => typeof v === "object" && v !== null) as Record<string, unknown>[];
      if (inner.length > 0) at = one(pick, inner);
    }
    const key = pick(3) === 0 ? text(pick).toWellFormed() : one(pick, [...Object.keys(at), "url_file", "keyring_file"]);
    if (pick(5) === 0) delete at[key];
    else Object.defineProperty(at, key, { value: value(), enumerable: true, configurable: true, writable: true });
  }
  return tree;
}

const folder = mkdtempSync(join(tmpdir(), "sallyport-fuzz-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

/** A configuration loads, or all its problems are told; never another error, and no secret in either. */
function config(pick: Pick): void {
  const file = join(folder, "sallyport.yaml");
  const yaml = stringify(configTree(pick));
  writeFileSync(file, pick(3) === 0 ? damaged(pick, Buffer.from(yaml)) : yaml);
  const env: Record<string, string> = {};
  for (let n = pick(3); n > 0; n--) {
    const levels = many(pick, 3, () => one(pick, ["LISTENERS", "DATA", "BIND", "LOG", "LEVEL", "KEYRING", text(pick)]));
    env[`SALLYPORT_${levels.join("__")}`] = one(pick, [
      text(pick),
      "[",
      "{a: b",
      "[1, 2]",
      "true",
      "12",
      "&a [*a]",
      "! x",
    ]);
  }
  try {
    const loaded = loadConfig(file, env);
    assert.ok(!JSON.stringify(redacted(loaded)).includes(SECRET), "redacted shows a secret");
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    assert.ok(error.problems.length > 0);
    for (const problem of error.problems) assert.ok(!problem.includes(SECRET), `a problem shows a secret: ${problem}`);
  }
  assert.deepEqual(Object.keys(Object.prototype), []);
  assert.equal(({} as Record<string, unknown>)["x"], undefined);
}

export const targets: Readonly<Record<string, Target>> = {
  "token-string": tokenString,
  "validate-question": validateQuestion,
  "envoy-question": envoyQuestion,
  "page-token": pageToken,
  "sealed-entry": sealedEntry,
  bearer,
  config,
};
