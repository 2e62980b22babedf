import { create, fromBinary, fromJson, type MessageInitShape, toBinary, toJson } from "@bufbuild/protobuf";
import { invalidField } from "../domain/errors.ts";
import type { Changes } from "../feed/recent.ts";
import type { Feed, FeedAnswer } from "../feed/server.ts";
import {
  type WatchChangesRequest,
  WatchChangesRequestSchema,
  WatchChangesResponseSchema,
} from "../gen/sallyport/v1/token_validator_pb.ts";
import type { UnaryCall } from "../http2/unary/routes.ts";
import { durationMessage, timeBounds } from "../rpc/convert.ts";
import { undecodable } from "../rpc/transport-errors.ts";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
/** The answer leaves this long before the call's deadline. */
const MARGIN_MS = 50;
const KNOWN_ONLY = { readUnknownFields: false };
const utf8 = new TextDecoder("utf-8", { fatal: true });

/** WatchChanges on bytes. The part of an answer that many caches share is encoded once. */
export class WatchChangesCodec {
  readonly #feed: Feed;
  readonly #shared = new WeakMap<Changes, Uint8Array>();

  constructor(feed: Feed) {
    this.#feed = feed;
  }

  async answer(
    message: Uint8Array,
    form: "binary" | "json",
    { peer, deadline, signal }: Pick<UnaryCall, "peer" | "deadline" | "signal">,
  ): Promise<Uint8Array> {
    const request = parse(message, form);
    const { cacheId, sequence, epoch, leaving } = request;
    if (!UUID.test(cacheId)) throw invalidField("cache_id", "must be a UUID");
    if (epoch.length > 16) throw invalidField("epoch", "must have at most 16 bytes");
    const poll = { cacheId: cacheId.toLowerCase(), epoch, position: Number(request.position), leaving };
    const answer = await this.#feed.poll(poll, { connection: peer, deadline: deadline - MARGIN_MS, signal });
    const own = { sequence, ...leaseOf(answer) };
    if (form === "json") {
      const response = create(WatchChangesResponseSchema, { ...own, ...this.#sharedOf(answer) });
      return Buffer.from(JSON.stringify(toJson(WatchChangesResponseSchema, response)), "utf8");
    }
    // Two encoded messages in a row are the message with the fields of both.
    return Buffer.concat([this.#encoded(answer), encode(own)]);
  }

  #encoded(answer: FeedAnswer): Uint8Array {
    let bytes = this.#shared.get(answer.changes);
    if (bytes === undefined) this.#shared.set(answer.changes, (bytes = encode(this.#sharedOf(answer))));
    return bytes;
  }

  #sharedOf({ epoch, changes }: FeedAnswer): Fields {
    const { position, floor, tags } = changes;
    const { instanceId } = this.#feed;
    return { epoch, position: BigInt(position), floor: BigInt(floor), changed: [...tags], instanceId };
  }
}

type Fields = Exclude<MessageInitShape<typeof WatchChangesResponseSchema>, { $typeName: string }>;

function leaseOf({ leaseMs, time }: FeedAnswer): Fields {
  return { lease: leaseMs === undefined ? undefined : durationMessage(leaseMs), ...(time && timeBounds(time)) };
}

function encode(fields: Fields): Uint8Array {
  return toBinary(WatchChangesResponseSchema, create(WatchChangesResponseSchema, fields));
}

function parse(message: Uint8Array, form: "binary" | "json"): WatchChangesRequest {
  try {
    if (form === "binary") return fromBinary(WatchChangesRequestSchema, message, KNOWN_ONLY);
    return fromJson(WatchChangesRequestSchema, JSON.parse(utf8.decode(message)), { ignoreUnknownFields: false });
  } catch (error) {
    throw undecodable(form === "json" ? error : undefined);
  }
}
