import { create, fromBinary, fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import type { RequestContext, Requirement } from "../domain/decide.ts";
import { AppError, invalidField } from "../domain/errors.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";
import {
  BatchValidateTokensRequestSchema,
  BatchValidateTokensResponseSchema,
  type ValidateTokenRequest,
  ValidateTokenRequestSchema,
  type ValidateTokenResponse,
  ValidateTokenResponseSchema,
} from "../gen/sallyport/v1/token_validator_pb.ts";
import { validateMessage } from "../rpc/convert.ts";
import { undecodable } from "../rpc/transport-errors.ts";
import type { Validate, ValidateKnown, ValidationResult } from "../validation/validate.ts";
import { ascii } from "./bytes.ts";
import { Encoded } from "./encoded.ts";
import { ContextBytes, keptTarget } from "./request-target.ts";

/*
 * TokenValidator on bytes, without the gRPC library. A hand-written scanner reads the binary request, and the answer to
 * a plain ALLOW or INVALID_TOKEN is encoded once and reused.
 */

/** The part of a request that validation needs, besides the token string. */
interface ValidationContext extends Requirement, RequestContext {}

export interface ValidateTokenQuery extends ValidationContext {
  readonly tokenString: string;
  readonly wantEntry?: boolean;
}

/** The same, with the position of the token string's characters. */
export interface Places extends ValidationContext {
  readonly from: number;
  readonly to: number;
}

export interface AskOptions {
  readonly deadline: number;
  /** True if the caller may see why a token was refused. */
  readonly reasons: boolean;
}

const MAX_SCOPES = 32;
const MAX_REQUESTS = 100;
const NO_SCOPES: readonly string[] = [];
const INVALID = new Encoded(
  toBinary(ValidateTokenResponseSchema, validateMessage({ verdict: "INVALID_TOKEN" }, false)),
);

/**
 * ValidateToken on bytes. Malformed bytes are UNDECODABLE and a broken bound is INVALID_FIELD. Every verdict is an
 * answer.
 */
export class ValidateTokenCodec {
  readonly #validate: Validate;
  readonly #known: ValidateKnown;
  readonly #withEntry: Validate;
  /**
   * Answers to plain ALLOWs, kept from a token's second use on, since most tokens are used once and are not worth the
   * memory. An entry lives as long as the cached snapshot that it was made from.
   */
  readonly #allowed = new WeakMap<TokenSnapshot, Encoded | "once">();

  /**
   * `known` answers first if it can. Without it, every question goes to `validate`; one of a client cache goes to
   * `withEntry`.
   */
  constructor(validate: Validate, known: ValidateKnown = () => undefined, withEntry: Validate = validate) {
    this.#validate = validate;
    this.#known = known;
    this.#withEntry = withEntry;
  }

  /** Reads `message` before the first await, and does not keep it. */
  binary(message: Uint8Array, options: AskOptions): Encoded | Promise<Encoded> {
    const places = walk(message);
    if (places === undefined) return this.#decoded(decode(message), options);
    checkBounds(places, "");
    const answer =
      this.#known(message, places.from, places.to, places, places) ??
      this.#ask(questionAt(message, places) ?? decode(message), options.deadline, "");
    if (answer instanceof Promise) return answer.then((later) => this.#encoded(later, options.reasons));
    return this.#encoded(answer, options.reasons);
  }

  async json(message: Uint8Array, options: AskOptions): Promise<Uint8Array> {
    const request = parse(ValidateTokenRequestSchema, message);
    const answer = await this.#ask(questionOf(request), options.deadline, "");
    return jsonBytes(toJson(ValidateTokenResponseSchema, validateMessage(answer, options.reasons)));
  }

  async batch(message: Uint8Array, form: "binary" | "json", options: AskOptions): Promise<Uint8Array> {
    const request = form === "json" ? parse(BatchValidateTokensRequestSchema, message) : decodeBatch(message);
    const { requests } = request;
    if (requests.length < 1) throw wrongNumberOfRequests();
    const responses: ValidateTokenResponse[] = await Promise.all(
      requests.map(async (entry, i) =>
        validateMessage(await this.#ask(questionOf(entry), options.deadline, `requests[${i}].`), options.reasons),
      ),
    );
    const response = create(BatchValidateTokensResponseSchema, { responses });
    return form === "json"
      ? jsonBytes(toJson(BatchValidateTokensResponseSchema, response))
      : toBinary(BatchValidateTokensResponseSchema, response);
  }

  /** A request that `walk` leaves to the full decoder. An answer with an entry is not kept, because the entry changes. */
  #decoded(question: ValidateTokenQuery, { deadline, reasons }: AskOptions): Encoded | Promise<Encoded> {
    const encoded = (answer: ValidationResult) =>
      answer.entry === undefined ? this.#encoded(answer, reasons) : encode(answer, reasons);
    const answer = this.#ask(question, deadline, "");
    return answer instanceof Promise ? answer.then(encoded) : encoded(answer);
  }

  #ask(question: ValidateTokenQuery, deadline: number, at: string): ValidationResult | Promise<ValidationResult> {
    checkBounds(question, at);
    const validate = question.wantEntry ? this.#withEntry : this.#validate;
    return validate(question.tokenString, question, question, deadline);
  }

  #encoded(answer: ValidationResult, reasons: boolean): Encoded {
    if (answer.verdict === "ALLOW") {
      const known = this.#allowed.get(answer.snapshot!);
      if (known !== undefined && known !== "once") return known;
      const made = encode(answer, false);
      this.#allowed.set(answer.snapshot!, known === undefined ? "once" : made);
      return made;
    }
    if (answer.verdict === "INVALID_TOKEN" && !reasons) return INVALID;
    return encode(answer, reasons);
  }
}

function checkBounds({ scopes, audience, tenant }: Requirement, at: string): void {
  if (scopes.length > MAX_SCOPES) throw tooManyScopes(at);
  if (audience.length > 256) throw invalidField(`${at}audience`, "must have at most 256 characters");
  if (tenant.length > 63) throw invalidField(`${at}tenant`, "must have at most 63 characters");
}

function tooManyScopes(at: string): AppError {
  return invalidField(`${at}required_scopes`, `must have at most ${MAX_SCOPES} entries`);
}

function wrongNumberOfRequests(): AppError {
  return invalidField("requests", `must have 1 to ${MAX_REQUESTS} entries`);
}

function encode(answer: ValidationResult, reasons: boolean): Encoded {
  return new Encoded(toBinary(ValidateTokenResponseSchema, validateMessage(answer, reasons)));
}

function questionOf(request: ValidateTokenRequest): ValidateTokenQuery {
  const { tokenString, requiredScopes: scopes, audience, tenant, wantEntry, context } = request;
  const clientAddress = context?.clientAddress ?? "";
  return { tokenString, scopes, audience, tenant, clientAddress, target: context && keptTarget(context), wantEntry };
}

function decode(message: Uint8Array): ValidateTokenQuery {
  const { number } = ValidateTokenRequestSchema.field.requiredScopes;
  if (hasMore(message, number, MAX_SCOPES)) throw tooManyScopes("");
  try {
    return questionOf(fromBinary(ValidateTokenRequestSchema, message, KNOWN_ONLY));
  } catch {
    throw undecodable(undefined);
  }
}

function decodeBatch(message: Uint8Array) {
  const { number } = BatchValidateTokensRequestSchema.field.requests;
  if (hasMore(message, number, MAX_REQUESTS)) throw wrongNumberOfRequests();
  try {
    return fromBinary(BatchValidateTokensRequestSchema, message, KNOWN_ONLY);
  } catch {
    throw undecodable(undefined);
  }
}

/** Unknown fields are not copied. */
const KNOWN_ONLY = { readUnknownFields: false };

/**
 * True if a field occurs more than `limit` times. This check runs before decoding, so that a refusal is cheap. False
 * for malformed bytes, which the decoder refuses.
 */
function hasMore(bytes: Uint8Array, field: number, limit: number): boolean {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) break;
    }
    return value;
  };
  for (let count = 0; at < bytes.length; ) {
    const tag = varint();
    const type = tag % 8;
    if (tag - type === field * 8 && ++count > limit) return true;
    const value = type === 0 || type === 2 ? varint() : 0;
    if (type === 2) at += value;
    else if (type === 1) at += 8;
    else if (type === 5) at += 4;
  }
  return false;
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

function parse<S extends typeof ValidateTokenRequestSchema | typeof BatchValidateTokensRequestSchema>(
  schema: S,
  message: Uint8Array,
) {
  try {
    const value = JSON.parse(utf8.decode(message));
    if (lengthOf(value, "requests") > MAX_REQUESTS) throw wrongNumberOfRequests();
    if (lengthOf(value, "requiredScopes", "required_scopes") > MAX_SCOPES) throw tooManyScopes("");
    return fromJson(schema, value, { ignoreUnknownFields: false });
  } catch (error) {
    throw error instanceof AppError ? error : undecodable(error);
  }
}

/** The length of the list at one of these keys; 0 if there is none. */
function lengthOf(value: unknown, ...keys: readonly string[]): number {
  if (typeof value !== "object" || value === null) return 0;
  const lists = keys.map((key) => (value as Record<string, unknown>)[key]).filter(Array.isArray);
  return Math.max(0, ...lists.map(({ length }) => length));
}

function jsonBytes(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value), "utf8");
}

/**
 * Finds the fields that validation needs, without allocating an object for each. Undefined for anything unusual (not
 * ASCII, nested deeper, repeated, malformed): the full decoder then handles it. INVALID_FIELD for too many scopes, at
 * once.
 */
export function walk(message: Uint8Array): Places | undefined {
  const bytes = message as Buffer;
  let tokenFrom = 0;
  let tokenTo = 0;
  let scopes: string[] | undefined;
  let scopeCount = 0;
  let audience = "";
  let tenant = "";
  let clientAddress = "";
  let contexts = 0;
  let target: ContextBytes | undefined;
  const end = bytes.length;
  let at = 0;
  while (at < end) {
    const tag = bytes[at++]!;
    // Length-delimited fields 1 to 5, with lengths of one or two bytes.
    if (tag !== 0x0a && tag !== 0x12 && tag !== 0x1a && tag !== 0x22 && tag !== 0x2a) return undefined;
    let length = bytes[at++]!;
    if (length > 127) {
      const high = bytes[at++]!;
      if (!(high <= 127)) return undefined;
      length = (length & 127) | (high << 7);
    }
    const stop = at + length;
    if (!(stop <= end)) return undefined;
    if (tag === 0x0a) {
      if (tokenTo !== 0) return undefined;
      tokenFrom = at;
      tokenTo = stop;
    } else if (tag === 0x22) {
      // A second context, which merges with the first.
      if (target !== undefined) return undefined;
      // The usual context has nothing but a client address.
      if (length >= 2 && length <= 129 && bytes[at] === 0x0a && bytes[at + 1]! === length - 2) {
        const address = ascii(bytes, at + 2, stop);
        if (address === undefined) return undefined;
        clientAddress = address;
      } else {
        const context = new ContextBytes(bytes, at, stop);
        if (contexts > 0 || !context.plain) return undefined;
        clientAddress = context.clientAddress;
        target = context;
      }
      contexts++;
    } else {
      if (tag === 0x12 && ++scopeCount > MAX_SCOPES) throw tooManyScopes("");
      const text = ascii(bytes, at, stop);
      if (text === undefined) return undefined;
      if (tag === 0x12) (scopes ??= []).push(text);
      else if (tag === 0x1a) audience = text;
      else tenant = text;
    }
    at = stop;
  }
  return { from: tokenFrom, to: tokenTo, scopes: scopes ?? NO_SCOPES, audience, tenant, clientAddress, target };
}

/** Undefined if the token string is not ASCII. The full decoder then handles the request. */
export function questionAt(message: Uint8Array, places: Places): ValidateTokenQuery | undefined {
  const tokenString = ascii(message as Buffer, places.from, places.to);
  if (tokenString === undefined) return undefined;
  const { scopes, audience, tenant, clientAddress, target } = places;
  return { tokenString, scopes, audience, tenant, clientAddress, target: target && keptTarget(target) };
}
