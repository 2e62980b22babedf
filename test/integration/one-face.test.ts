import { request as httpRequest } from "node:http";
import { connect } from "node:http2";
import { crc32 } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { base62Number } from "../../src/domain/base62.ts";
import { TokenValidator, ValidateTokenRequestSchema } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { seconds, TestSallyport } from "../support/sallyport.ts";

/*
 * All INVALID_TOKEN answers are equal. A bearer must not learn if its string is malformed, forged, unknown, expired,
 * not yet valid, disabled, revoked or cut, or if its principal, tenant or parent is gone. Each answer is compared byte
 * for byte.
 */
let sallyport: TestSallyport;
let live = "";
const refused: Record<string, string> = {};

beforeAll(async () => {
  sallyport = await TestSallyport.start();
  const { admin } = sallyport;
  const hour = timestampFromMs(Date.now() + 3_600_000);
  for (const name of ["bot:ci", "bot:disabled", "bot:deleted", "bot:cut"]) await sallyport.registered(name);
  for (const id of ["suspended", "cut"]) await admin.tenants.createTenant({ tenant: { id } });
  const bot = (principal: string, more: object = {}) =>
    sallyport.createToken({ profile: "bot", principal, displayName: "", ...more });
  live = (await bot("bot:ci")).tokenString;
  const swap = (at: number) => {
    const chars = [...live];
    chars[at] = chars[at] === "0" ? "1" : "0";
    return chars.join("");
  };
  Object.assign(refused, {
    empty: "",
    malformed: "no token at all",
    "5,000 characters": "x".repeat(5000),
    "another script": "п".repeat(66),
    "wrong crc": swap(live.length - 1),
    "forged tag": sealed(swap("sp_bot_1".length)),
    "another kind of credential": "eyJhbGciOiJub25lIn0.e30.",
    "unknown kid": live.replace(/^sp_bot_1/, "sp_bot_9"),
  });
  const expired = await bot("bot:ci", { lifetime: { case: "ttl", value: seconds(1) } });
  refused["not yet valid"] = (await bot("bot:ci", { notBeforeTime: hour })).tokenString;
  const disabled = await bot("bot:ci");
  await admin.tokens.updateToken({ token: { id: disabled.id, disabled: true }, updateMask: { paths: ["disabled"] } });
  refused["disabled"] = disabled.tokenString;
  const revoked = await bot("bot:ci");
  await admin.tokens.revokeToken({ target: { case: "id", value: revoked.id } });
  refused["revoked"] = revoked.tokenString;
  const rotated = await bot("bot:ci");
  await admin.tokens.rotateToken({ id: rotated.id });
  refused["rotated"] = rotated.tokenString;
  const parent = await bot("bot:ci", { scopes: ["sallyport.tokens.create"] });
  refused["parent revoked"] = (
    await sallyport.createToken(
      { profile: "bot", principal: "bot:ci", displayName: "" },
      sallyport.as(parent.tokenString),
    )
  ).tokenString;
  await admin.tokens.revokeToken({ target: { case: "id", value: parent.id } });
  refused["principal disabled"] = (await bot("bot:disabled")).tokenString;
  await admin.principals.updatePrincipal({
    principal: { name: "bot:disabled", state: 2 },
    updateMask: { paths: ["state"] },
  });
  refused["principal deleted"] = (await bot("bot:deleted")).tokenString;
  await admin.principals.deletePrincipal({ name: "bot:deleted" });
  refused["principal cut"] = (await bot("bot:cut")).tokenString;
  await admin.tokens.revokeTokens({ principal: "bot:cut" });
  refused["tenant suspended"] = (await sallyport.createToken({ tenant: "suspended" })).tokenString;
  await admin.tenants.updateTenant({ tenant: { id: "suspended", state: 2 }, updateMask: { paths: ["state"] } });
  refused["tenant cut"] = (await sallyport.createToken({ tenant: "cut" })).tokenString;
  await admin.tokens.revokeTokens({ tenant: "cut" });
  const deleted = await sallyport.createToken();
  await sallyport.sql(`with a as (insert into sallyport.audit (tenant, actor, action, target) values ('default', 't', 'x', 'y'))
    delete from sallyport.tokens where id = '${deleted.id}'`);
  refused["unknown"] = deleted.tokenString;
  await vi.waitFor(async () => expect(await sallyport.verdict(expired.tokenString)).toBe("INVALID_TOKEN"), {
    timeout: 4000,
    interval: 50,
  });
  refused["expired"] = expired.tokenString;
});
afterAll(() => sallyport?.stop());

/** The string with the CRC that matches its other characters: only its tag is wrong. */
function sealed(tokenString: string): string {
  const head = tokenString.slice(0, -6);
  return head + base62Number(crc32(head), 6);
}

/** All bytes of an answer except those that change in every answer: date and request id. */
type Ask = (tokenString: string) => Promise<string>;
const shown = (status: unknown, headers: object, body: Buffer, trailers: object = {}) => {
  const fixed = (of: object) => Object.entries(of).filter(([name]) => !/^(date|x-request-id)$/i.test(name));
  return JSON.stringify([status, fixed(headers), body.toString("hex"), fixed(trailers)]);
};

const h1 =
  (type: string, encode: (tokenString: string) => Buffer): Ask =>
  (tokenString) =>
    new Promise((resolve, reject) => {
      const req = httpRequest(
        `${sallyport.listeners.data}/sallyport.v1.TokenValidator/ValidateToken`,
        { method: "POST", headers: { "content-type": type } },
        (res) => {
          const chunks: Buffer[] = [];
          res.on("data", (chunk: Buffer) => chunks.push(chunk));
          res.on("end", () => resolve(shown(res.statusCode, res.headers, Buffer.concat(chunks), res.trailers)));
        },
      );
      req.on("error", reject);
      req.end(encode(tokenString));
    });

const h2 =
  (type: string, encode: (tokenString: string) => Buffer): Ask =>
  (tokenString) =>
    new Promise((resolve, reject) => {
      const session = connect(sallyport.listeners.data);
      session.on("error", reject);
      const stream = session.request({
        ":method": "POST",
        ":path": "/sallyport.v1.TokenValidator/ValidateToken",
        "content-type": type,
        te: "trailers",
      });
      let headers = {};
      let trailers = {};
      const chunks: Buffer[] = [];
      stream.on("response", (got) => (headers = got));
      stream.on("trailers", (got) => (trailers = got));
      stream.on("data", (chunk: Buffer) => chunks.push(chunk));
      stream.on("end", () => {
        session.close();
        resolve(shown(0, headers, Buffer.concat(chunks), trailers));
      });
      stream.on("error", reject);
      stream.end(encode(tokenString));
    });

const json = (tokenString: string) => Buffer.from(JSON.stringify({ tokenString }));
const binary = (tokenString: string) =>
  Buffer.from(toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, { tokenString })));
const framed = (tokenString: string) => {
  const message = binary(tokenString);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
};

describe("every refused token has the same answer, byte for byte", () => {
  test.each<[string, Ask]>([
    ["Connect JSON over HTTP/1.1", h1("application/json", json)],
    ["Connect JSON over HTTP/2", h2("application/json", json)],
    ["Connect binary over HTTP/1.1", h1("application/proto", binary)],
    ["Connect binary over HTTP/2", h2("application/proto", binary)],
    ["gRPC", h2("application/grpc", framed)],
    ["gRPC with its subtype", h2("application/grpc+proto", framed)],
  ])("%s", async (_, ask) => {
    const faces = new Map<string, string[]>();
    for (const [cause, tokenString] of Object.entries(refused)) {
      // Twice, because the second answer may come from a cache.
      for (const round of [1, 2]) {
        const face = await ask(tokenString);
        faces.set(face, [...(faces.get(face) ?? []), `${cause} ${round}`]);
      }
    }
    expect([...faces.values()]).toHaveLength(1);
    expect(Object.keys(refused)).toHaveLength(20);
    const good = await ask(live);
    expect(faces.has(good)).toBe(false);
  });

  test("the answers of a batch are equal, too, in the order of the requests", async () => {
    const requests = [live, ...Object.values(refused), live].map((tokenString) => ({ tokenString }));
    const { responses } = await sallyport.validator.batchValidateTokens({ requests });
    expect(responses.map(({ verdict }) => verdict)).toEqual([1, ...Object.values(refused).map(() => 2), 1]);
    expect(
      responses
        .slice(1, -1)
        .every((one) => one.token === undefined && one.reason === "" && one.missingScopes.length === 0),
    ).toBe(true);
  });
});

describe("the true reason of a refusal", () => {
  test("is in the answer to a caller with sallyport.reasons, and to no other", async () => {
    const reasonsFor = async (scopes: string[]) => {
      const { tokenString } = await sallyport.callerWith(scopes);
      const validator = sallyport.client(TokenValidator, "data", "connect-json", tokenString);
      const { responses } = await validator.batchValidateTokens({
        requests: Object.values(refused).map((token) => ({ tokenString: token })),
      });
      return Object.fromEntries(Object.keys(refused).map((cause, i) => [cause, responses[i]!.reason]));
    };
    expect(new Set(Object.values(await reasonsFor(["sallyport.validate"])))).toEqual(new Set([""]));
    expect(await reasonsFor(["sallyport.reasons"])).toEqual({
      empty: "malformed",
      malformed: "malformed",
      "5,000 characters": "malformed",
      "another script": "malformed",
      "wrong crc": "malformed",
      "forged tag": "unknown",
      "another kind of credential": "malformed",
      "unknown kid": "malformed",
      "not yet valid": "not_yet_valid",
      disabled: "disabled",
      revoked: "revoked",
      rotated: "revoked",
      "parent revoked": "revoked",
      "principal disabled": "disabled",
      "principal deleted": "principal_gone",
      "principal cut": "revoked",
      "tenant suspended": "disabled",
      "tenant cut": "revoked",
      unknown: "unknown",
      expired: "expired",
    });
  });

  test("is in the metrics, without any token in a label", async () => {
    const metrics = await (await fetch(`${sallyport.listeners.ops}/metrics`)).text();
    for (const reason of [
      "malformed",
      "unknown",
      "expired",
      "not_yet_valid",
      "disabled",
      "revoked",
      "principal_gone",
    ]) {
      expect(metrics).toMatch(new RegExp(`^sallyport_refusals_total\\{reason="${reason}"\\} [1-9]`, "m"));
    }
    expect(metrics).not.toMatch(/sp_bot_|tok_|bot:ci|default"/);
  });
});
