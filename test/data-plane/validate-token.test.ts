import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";
import { keptTarget } from "../../src/data-plane/request-target.ts";
import { questionAt, ValidateTokenCodec, type ValidateTokenQuery, walk } from "../../src/data-plane/validate-token.ts";
import type { RefusalReason } from "../../src/domain/decide.ts";
import { Freshness } from "../../src/domain/freshness.ts";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import type { TokenSnapshot } from "../../src/domain/token-snapshot.ts";
import { mintTokenString } from "../../src/domain/token-string.ts";
import {
  BatchValidateTokensRequestSchema,
  BatchValidateTokensResponseSchema,
  ValidateTokenRequestSchema,
  type ValidateTokenResponse,
  ValidateTokenResponseSchema,
  Verdict,
} from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { validateMessage } from "../../src/rpc/convert.ts";
import type { Events } from "../../src/telemetry/events.ts";
import { Lookup } from "../../src/validation/lookup.ts";
import type { Reading } from "../../src/validation/ports.ts";
import {
  type Validate,
  type ValidationResult,
  validateKnownWith,
  validateWith,
} from "../../src/validation/validate.ts";
import { EPOCH, snapshot } from "../support/token-snapshot.ts";

const REASONS: readonly RefusalReason[] = [
  "malformed",
  "unknown",
  "expired",
  "not_yet_valid",
  "disabled",
  "revoked",
  "principal_gone",
];
const NO_TARGET = { method: "", host: "", path: "", workload: "" };
const options = { deadline: Number.POSITIVE_INFINITY, reasons: false };
const later = <T>(value: T): Promise<T> => Promise.resolve(value);

/** The library's reading; undefined if it refuses. */
function byLibrary(bytes: Uint8Array): ValidateTokenQuery | undefined {
  try {
    const { tokenString, requiredScopes, audience, tenant, context } = fromBinary(ValidateTokenRequestSchema, bytes);
    const clientAddress = context?.clientAddress ?? "";
    return {
      tokenString,
      scopes: requiredScopes,
      audience,
      tenant,
      clientAddress,
      target: keptTarget(context ?? NO_TARGET),
    };
  } catch {
    return undefined;
  }
}

/** The service's reading of the same bytes, by the scanner or the full decoder. */
async function byWire(bytes: Uint8Array): Promise<ValidateTokenQuery | undefined> {
  let asked: ValidateTokenQuery | undefined;
  const validate: Validate = (tokenString, { scopes, audience, tenant }, { clientAddress, target }) => {
    asked = { tokenString, scopes, audience, tenant, clientAddress, target: target ?? NO_TARGET };
    return { verdict: "INVALID_TOKEN", tier: "none" };
  };
  try {
    await new ValidateTokenCodec(validate).binary(bytes, options);
  } catch (error) {
    // The bound of the tenant is short. Beyond it the request is refused, also where the decoder would refuse more.
    const decoded = byLibrary(bytes);
    const tooLong = decoded === undefined ? String(error).includes("tenant must have") : decoded.tenant.length > 63;
    if (asked === undefined && tooLong) {
      expect(error).toMatchObject({ reason: "INVALID_FIELD" });
      return decoded;
    }
    expect(error).toMatchObject({ reason: "UNDECODABLE" });
    expect((error as Error).message).toBe(
      "the request cannot be decoded: it is malformed, or has a field that the method does not know",
    );
  }
  return asked;
}

/** The scanner's reading, if it accepts the bytes. */
function read(bytes: Uint8Array): ValidateTokenQuery | undefined {
  const copy = Buffer.from(bytes);
  const places = walk(copy);
  const question = places && questionAt(copy, places);
  copy.fill(0x7a);
  return question && { ...question, target: question.target ?? NO_TARGET };
}

/** Also checks the scanner alone: it may leave bytes to the decoder, but never read them differently. */
async function agree(bytes: Uint8Array): Promise<void> {
  const expected = byLibrary(bytes);
  expect(await byWire(bytes)).toEqual(expected);
  const walked = read(bytes);
  if (walked !== undefined) expect(walked).toEqual(expected);
}

function varint(n: number, pad = 0): Buffer {
  const bytes: number[] = [];
  for (let rest = n; ; rest = Math.floor(rest / 128)) {
    const more = rest >= 128;
    bytes.push((rest % 128) | (more || pad > 0 ? 128 : 0));
    if (!more) break;
  }
  for (let i = pad; i > 0; i--) bytes.push(i > 1 ? 128 : 0);
  return Buffer.from(bytes);
}
const delimited = (field: number, bytes: Uint8Array, pad = 0): Buffer =>
  Buffer.concat([varint((field << 3) | 2), varint(bytes.length, pad), bytes]);

const text = fc.oneof(
  fc.string({ maxLength: 40 }),
  fc.string({ unit: "grapheme", maxLength: 20 }),
  fc.string({ minLength: 120, maxLength: 300 }),
);
const content = fc.oneof(
  { weight: 6, arbitrary: text.map((value) => Buffer.from(value)) },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 12 }).map((bytes) => Buffer.from(bytes)) },
);
const padding = fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(3) });
const string = (field: number) => fc.tuple(content, padding).map(([bytes, pad]) => delimited(field, bytes, pad));
const contextFields = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: string(1) },
    { weight: 1, arbitrary: fc.integer({ min: 2, max: 9 }).chain(string) },
    { weight: 1, arbitrary: fc.nat(300).map((value) => Buffer.concat([varint(6 << 3), varint(value)])) },
  ),
  { maxLength: 3 },
);
const fields = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(1, 2, 3, 5).chain(string) },
    {
      weight: 3,
      arbitrary: fc.tuple(contextFields, padding).map(([all, pad]) => delimited(4, Buffer.concat(all), pad)),
    },
    { weight: 1, arbitrary: fc.integer({ min: 5, max: 3_000 }).chain(string) },
    { weight: 1, arbitrary: fc.nat(1_000).map((value) => Buffer.concat([varint(7 << 3), varint(value)])) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(0x09, 0x0b, 0x0c, 0x0d, 0x0f, 0x08, 0x2b).map((tag) => Buffer.from([tag, 1])),
    },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 6 }).map((bytes) => Buffer.from(bytes)) },
  ),
  { maxLength: 8 },
);

describe("the scanner for ValidateToken", () => {
  prop.prop([fields], { numRuns: 1_500 })("reads what the library reads, and refuses what it refuses", async (all) => {
    await agree(Buffer.concat(all));
  });

  prop.prop([fields], { numRuns: 60 })("and so at every cut", async (all) => {
    const bytes = Buffer.concat(all);
    for (let end = 0; end <= Math.min(bytes.length, 600); end++) await agree(bytes.subarray(0, end));
  });

  prop.prop([fields, fc.nat(), fc.nat(255)], { numRuns: 1_000 })("and with one byte changed", async (all, at, byte) => {
    const bytes = Buffer.concat(all);
    if (bytes.length > 0) bytes[at % bytes.length] = byte;
    await agree(bytes);
  });

  test("reads the usual request without the decoder", () => {
    const asked = {
      tokenString: `sp_pat_${"x".repeat(58)}`,
      requiredScopes: ["repo:read", "repo:write"],
      audience: "https://api.example",
      tenant: "acme",
      context: { clientAddress: "2001:db8::1" },
    };
    const bytes = toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, asked));
    expect(read(bytes)).toEqual({
      tokenString: asked.tokenString,
      scopes: asked.requiredScopes,
      audience: asked.audience,
      tenant: "acme",
      clientAddress: "2001:db8::1",
      target: NO_TARGET,
    });
  });

  test("reads a context with a target without the decoder, and makes its texts only where they are read", () => {
    const context = { clientAddress: "10.0.0.1", method: "GET", host: "a.example", path: "/p", workload: "w" };
    const message = toBinary(
      ValidateTokenRequestSchema,
      create(ValidateTokenRequestSchema, { tokenString: "x", context }),
    );
    const { clientAddress, ...target } = context;
    const places = walk(message)!;
    expect(places.clientAddress).toBe(clientAddress);
    expect(keptTarget(places.target!)).toEqual(target);
    expect(Object.keys(places.target!)).toEqual([]);
  });

  test("keeps nothing of the buffer that it read", () => {
    const bytes = Buffer.from(delimited(1, Buffer.from("sp_pat_abc")));
    const question = questionAt(bytes, walk(bytes)!)!;
    bytes.fill(0x7a);
    expect(question.tokenString).toBe("sp_pat_abc");
  });
});

const snapshots = fc.record({
  scopes: fc.array(text, { maxLength: 5 }),
  audiences: fc.array(text, { maxLength: 3 }),
  annotations: fc.dictionary(text, text, { maxKeys: 3 }),
  expire: fc.option(fc.integer({ min: 0, max: 9e12 }), { nil: undefined }),
  principal: text,
  tenant: text,
});
const answering = (answer: ValidationResult) => new ValidateTokenCodec(() => answer);
const ask = (init: MessageInitShape<typeof ValidateTokenRequestSchema> = {}) =>
  toBinary(ValidateTokenRequestSchema, create(ValidateTokenRequestSchema, init));

describe("an encoded answer", () => {
  prop.prop([snapshots, fc.boolean()])(
    "to ALLOW is what the encoder makes of it, each time",
    async (facts, reasons) => {
      const answer: ValidationResult = { verdict: "ALLOW", snapshot: snapshot(1, facts), tier: "l1" };
      const wire = answering(answer);
      const expected = toBinary(ValidateTokenResponseSchema, validateMessage(answer, reasons));
      for (let n = 0; n < 3; n++) {
        const { bytes } = await wire.binary(ask(), { ...options, reasons });
        expect(Buffer.from(bytes).equals(expected)).toBe(true);
      }
    },
  );

  test("to ALLOW is kept from the second use of the same snapshot on, and made again for another snapshot of the token", async () => {
    const [first, second] = [snapshot(1), snapshot(2, { scopes: ["changed"] })];
    let now: TokenSnapshot = first;
    const wire = new ValidateTokenCodec(() => ({ verdict: "ALLOW", snapshot: now, tier: "l1" }));
    await wire.binary(ask(), options); // A first use keeps nothing.
    const one = await wire.binary(ask(), options);
    expect(await wire.binary(ask(), options)).toBe(one);
    now = second;
    const other = await wire.binary(ask(), options);
    expect(fromBinary(ValidateTokenResponseSchema, other.bytes).token?.scopes).toEqual(["changed"]);
    now = first;
    expect(await wire.binary(ask(), options)).toBe(one);
  });

  test("of INVALID_TOKEN is the same, byte for byte, for every reason and in every form", async () => {
    const faces = { binary: new Set<string>(), json: new Set<string>(), batch: new Set<string>() };
    for (const reason of REASONS) {
      for (const promised of [false, true]) {
        const answer: ValidationResult = { verdict: "INVALID_TOKEN", reason, tier: "store" };
        const wire = new ValidateTokenCodec(() => (promised ? later(answer) : answer));
        faces.binary.add(Buffer.from((await wire.binary(ask(), options)).bytes).toString("hex"));
        faces.json.add(Buffer.from(await wire.json(Buffer.from("{}"), options)).toString());
        const batch = create(BatchValidateTokensRequestSchema, { requests: [{}] });
        faces.batch.add(
          Buffer.from(await wire.batch(toBinary(BatchValidateTokensRequestSchema, batch), "binary", options)).toString(
            "hex",
          ),
        );
      }
    }
    expect([...faces.binary]).toEqual(["0802"]);
    expect([...faces.json]).toEqual(['{"verdict":"VERDICT_INVALID_TOKEN"}']);
    expect(faces.batch.size).toBe(1);
  });

  test("carries a reason to callers who may see it, and leaves none behind for others", async () => {
    for (const reason of REASONS) {
      const answer: ValidationResult = { verdict: "INVALID_TOKEN", reason, tier: "store" };
      const wire = answering(answer);
      const read = async (reasons: boolean) =>
        fromBinary(ValidateTokenResponseSchema, (await wire.binary(ask(), { ...options, reasons })).bytes).reason;
      expect([await read(false), await read(true), await read(false)]).toEqual(["", reason, ""]);
    }
  });

  test("for a client cache has its entry and is never kept; other questions are answered without", async () => {
    const answer = { verdict: "ALLOW", snapshot: snapshot(1), tier: "l1" } as const;
    let position = 7;
    const entryOf = () => ({
      epoch: Buffer.alloc(16, 1),
      position: position++,
      tags: [1n, 2n ** 64n - 1n],
      notBefore: 5,
    });
    const wire = new ValidateTokenCodec(
      () => answer,
      () => answer,
      () => ({ ...answer, entry: entryOf() }),
    );
    const read = async (wantEntry: boolean) =>
      fromBinary(ValidateTokenResponseSchema, (await wire.binary(ask({ tokenString: "t", wantEntry }), options)).bytes);
    for (let i = 0; i < 3; i++) expect((await read(false)).entry).toBeUndefined();
    for (const expected of [7n, 8n, 9n]) {
      const { verdict, entry } = await read(true);
      expect(verdict).toBe(Verdict.ALLOW);
      expect(entry).toMatchObject({
        position: expected,
        tags: [1n, 2n ** 64n - 1n],
        notBeforeTime: { nanos: 5_000_000 },
      });
    }
    expect((await read(false)).entry).toBeUndefined();
  });

  test("of another verdict is never kept", async () => {
    const judged = snapshot(1, { scopes: ["a"] });
    let answer: ValidationResult = { verdict: "ALLOW", snapshot: judged, tier: "l1" };
    const wire = new ValidateTokenCodec(() => answer);
    await wire.binary(ask(), options);
    answer = { verdict: "INSUFFICIENT_SCOPE", snapshot: judged, missingScopes: ["b"], tier: "l1" };
    const refused = fromBinary(ValidateTokenResponseSchema, (await wire.binary(ask(), options)).bytes);
    expect([refused.verdict, refused.missingScopes]).toEqual([Verdict.INSUFFICIENT_SCOPE, ["b"]]);
    answer = { verdict: "UNDETERMINED", tier: "none" };
    expect(fromBinary(ValidateTokenResponseSchema, (await wire.binary(ask(), options)).bytes).verdict).toBe(
      Verdict.UNDETERMINED,
    );
  });
});

/** The real look-up over rows that a test changes, and the poll that reports the change. */
function authority() {
  const keyring = new Keyring("1", freshKeyring().keys);
  const clock = { mono: () => performance.now(), wall: () => Date.now() };
  const timers = {
    after(ms: number, run: () => void) {
      const timer = setTimeout(run, ms);
      return () => clearTimeout(timer);
    },
  };
  const tiers: string[] = [];
  const events = {
    validated: (_verdict: string, _reason: unknown, tier: string) => tiers.push(tier),
    tokenReused() {},
    shed() {},
    trouble(what: string, error: unknown) {
      throw new Error(what, { cause: error });
    },
  } as unknown as Events;
  const rows = new Map<string, TokenSnapshot>();
  const freshness = new Freshness(60_000);
  let n = 1;
  const page = (changed: readonly { position: number; key: string }[]) => ({
    inRecovery: false,
    epoch: EPOCH,
    position: n,
    dbTime: Date.now(),
    ownRowLive: true,
    proven: true,
    floorN: 0,
    rows: changed,
    full: false,
  });
  const poll = (changed: readonly { position: number; key: string }[] = []) =>
    freshness.apply(page(changed), clock.mono(), clock.mono());
  freshness.begin(EPOCH, clock.mono());
  poll();
  const reader = {
    async read(digest: string): Promise<Reading> {
      const sent = clock.mono();
      await new Promise(setImmediate);
      const found = rows.get(digest);
      const seen = found && { ...found, version: { epoch: EPOCH, position: n } };
      return {
        inRecovery: false,
        epoch: EPOCH,
        proven: true,
        position: n,
        dbTime: Date.now(),
        snapshot: seen,
        sent,
        received: clock.mono(),
      };
    },
    reconnect() {},
  };
  const lookup = new Lookup(
    { freshness, reader, clock, timers, events, wake: () => {} },
    {
      l1Entries: 1_000,
      l1Bytes: 1 << 20,
      l1TtlMs: 60_000,
      l1DeadTtlMs: 5_000,
      maxCacheReads: 8,
      maxReads: 8,
      maxQueuedReads: 512,
      readTimeoutMs: 400,
    },
  );
  const deps = { keyring, lookup, freshness, clock, events };
  return {
    tiers,
    wire: new ValidateTokenCodec(validateWith(deps), validateKnownWith(deps)),
    long: new ValidateTokenCodec(validateWith(deps)),
    mint(id: string) {
      const { tokenString, digest } = mintTokenString("sp_pat", keyring.current);
      rows.set(digest, snapshot(n, { id, digest }));
      return { text: tokenString.reveal(), digest };
    },
    change(digest: string, over: Partial<TokenSnapshot>) {
      n++;
      rows.set(digest, { ...rows.get(digest)!, ...over });
      poll([{ position: n, key: `t${digest}` }]);
    },
  };
}

async function answerOf(wire: ValidateTokenCodec, tokenString: string): Promise<ValidateTokenResponse> {
  const within = { deadline: performance.now() + 2_000, reasons: false };
  return fromBinary(ValidateTokenResponseSchema, (await wire.binary(ask({ tokenString }), within)).bytes);
}

describe("a prepared answer, over the real look-up", () => {
  test("answers for its own token only", async () => {
    const { wire, mint, tiers } = authority();
    const tokens = Array.from({ length: 300 }, (_, i) => ({ id: `tok_${String(i).padStart(22, "0")}`, i }));
    const strings = tokens.map(({ id }) => mint(id).text);
    for (let round = 0; round < 5; round++) {
      const order = tokens.toSorted((a, b) => ((a.i * 7_919 + round) % 300) - ((b.i * 7_919 + round) % 300));
      const answers = await Promise.all(order.map(({ i }) => answerOf(wire, strings[i]!)));
      expect(answers.map(({ token }) => token?.id)).toEqual(order.map(({ id }) => id));
    }
    expect(tiers.filter((tier) => tier === "l1").length).toBeGreaterThanOrEqual(1_200);
  });

  test("does not outlive the revocation of its token, and is not reused after a change", async () => {
    const { wire, mint, change, tiers } = authority();
    const { text: tokenString, digest } = mint("tok_0000000000000000000001");
    const verdict = async () => (await answerOf(wire, tokenString)).verdict;
    expect([await verdict(), await verdict()]).toEqual([Verdict.ALLOW, Verdict.ALLOW]);
    expect(tiers.at(-1)).toBe("l1");
    change(digest, { scopes: ["now"] });
    expect((await answerOf(wire, tokenString)).token?.scopes).toEqual(["now"]);
    change(digest, { revoked: true });
    for (let n = 0; n < 3; n++) expect(await verdict()).toBe(Verdict.INVALID_TOKEN);
    change(digest, { revoked: false, disabled: true });
    expect(await verdict()).toBe(Verdict.INVALID_TOKEN);
  });

  test("equals the answer of the slow path, and is counted alike, for tokens in every state", async () => {
    const { wire, long, mint, change, tiers } = authority();
    const states: Partial<TokenSnapshot>[] = [
      {},
      { revoked: true },
      { disabled: true },
      { expire: 1 },
      { notBefore: 9e12 },
      { cut: true, rotated: true },
      { scopes: ["a"], audiences: ["x"] },
      { allowedCidrs: ["192.0.2.0/24"] },
    ];
    const texts = states.map((state, i) => {
      const { text, digest } = mint(`tok_${String(i).padStart(22, "0")}`);
      change(digest, state);
      return text;
    });
    for (const text of texts) await answerOf(wire, text);
    const questions = fc.record({
      tokenString: fc.oneof(
        { weight: 6, arbitrary: fc.constantFrom(...texts) },
        fc.constantFrom(...texts).map((text) => `${text.slice(0, -1)}é`),
        fc.string({ maxLength: 90 }),
      ),
      requiredScopes: fc.array(fc.constantFrom("a", "b"), { maxLength: 40 }),
      audience: fc.constantFrom("", "x", "y", "z".repeat(257)),
      tenant: fc.constantFrom("", "acme", "globex", "z".repeat(64)),
      context: fc.constantFrom({ clientAddress: "" }, { clientAddress: "192.0.2.7" }, { clientAddress: "::1" }),
    });
    const attempt = async (by: ValidateTokenCodec, question: Uint8Array) => {
      const before = tiers.length;
      const within = { deadline: performance.now() + 2_000, reasons: true };
      const said = await (async () => by.binary(question, within))().then(
        ({ bytes }) => Buffer.from(bytes).toString("hex"),
        (error: Error) => error.message,
      );
      return { said, tiers: tiers.slice(before) };
    };
    await fc.assert(
      fc.asyncProperty(questions, async (question) => {
        const bytes = ask(question);
        expect(await attempt(wire, bytes)).toEqual(await attempt(long, bytes));
      }),
      { numRuns: 1_000 },
    );
    expect(tiers.filter((tier) => tier === "l1").length).toBeGreaterThan(800);
  });

  test("does not outlive the lifetime of its token", async () => {
    const { wire, mint, change } = authority();
    const { text: tokenString, digest } = mint("tok_0000000000000000000001");
    const expire = Date.now() + 150;
    change(digest, { expire });
    expect((await answerOf(wire, tokenString)).verdict).toBe(Verdict.ALLOW);
    await new Promise((resolve) => setTimeout(resolve, expire - Date.now() + 5));
    expect((await answerOf(wire, tokenString)).verdict).toBe(Verdict.INVALID_TOKEN);
  });
});

describe("a batch of tokens", () => {
  const validate: Validate = (tokenString) => ({
    verdict: "ALLOW",
    snapshot: snapshot(1, { id: tokenString }),
    tier: "l1",
  });
  const batch = (count: number, form: "binary" | "json") => {
    const requests = Array.from({ length: count }, (_, n) => ({ tokenString: `t${n}` }));
    return form === "json"
      ? Buffer.from(JSON.stringify({ requests }))
      : toBinary(BatchValidateTokensRequestSchema, create(BatchValidateTokensRequestSchema, { requests }));
  };

  test("of 1 to 100 is answered in order", async () => {
    for (const count of [1, 2, 100]) {
      const bytes = await new ValidateTokenCodec(validate).batch(batch(count, "binary"), "binary", options);
      const { responses } = fromBinary(BatchValidateTokensResponseSchema, bytes);
      expect(responses.map(({ token }) => token?.id)).toEqual(Array.from({ length: count }, (_, n) => `t${n}`));
    }
  });

  test("of none or 101 is refused by its field, and validates nothing", async () => {
    let asked = 0;
    const wire = new ValidateTokenCodec((...question) => {
      asked++;
      return validate(...question);
    });
    for (const form of ["binary", "json"] as const)
      for (const count of [0, 101])
        await expect(wire.batch(batch(count, form), form, options)).rejects.toMatchObject({
          reason: "INVALID_FIELD",
          violations: [{ field: "requests" }],
        });
    expect(asked).toBe(0);
  });

  test("with one entry out of bounds names the entry", async () => {
    const requests = [{}, { requiredScopes: Array.from({ length: 33 }, () => "s") }];
    const bytes = toBinary(BatchValidateTokensRequestSchema, create(BatchValidateTokensRequestSchema, { requests }));
    await expect(new ValidateTokenCodec(validate).batch(bytes, "binary", options)).rejects.toMatchObject({
      reason: "INVALID_FIELD",
      violations: [{ field: "requests[1].required_scopes" }],
    });
  });
});

describe("the bounds of a request", () => {
  const wire = answering({ verdict: "INVALID_TOKEN", tier: "none" });
  const cases = [
    ["required_scopes", { requiredScopes: Array.from({ length: 33 }, () => "s") }],
    ["audience", { audience: "a".repeat(257) }],
  ] as const;
  test.each(cases)("%s beyond its bound is that field's violation, in binary and JSON", async (field, init) => {
    const violation = { reason: "INVALID_FIELD", violations: [{ field }] };
    expect(() => wire.binary(ask(init), options)).toThrow(expect.objectContaining({ reason: "INVALID_FIELD" }));
    await expect(wire.json(Buffer.from(JSON.stringify(init)), options)).rejects.toMatchObject(violation);
  });

  test("a request at the bound is validated", async () => {
    const init = { requiredScopes: Array.from({ length: 32 }, () => "s"), audience: "a".repeat(256) };
    expect(fromBinary(ValidateTokenResponseSchema, (await wire.binary(ask(init), options)).bytes).verdict).toBe(
      Verdict.INVALID_TOKEN,
    );
  });

  test.each(['{"token":"x"}', '{"tokenString":1}', "[]", "null", "", "{", '{"tokenString":"\\ud800"}'])(
    "JSON %s is UNDECODABLE",
    async (body) => {
      await expect(wire.json(Buffer.from(body), options)).rejects.toMatchObject({ reason: "UNDECODABLE" });
    },
  );
});
