import { isIP } from "node:net";
import { type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import {
  type CallOptions,
  type ChannelCredentials,
  type ChannelOptions,
  Client,
  Metadata,
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerInterceptor,
  type ServiceError,
} from "@grpc/grpc-js";
import { bearerOf } from "./bearer.ts";
import type { Identity } from "./cache.ts";
import type { Checker } from "./checker.ts";
import type { Verdict } from "./decide.ts";
import { TokenValidator } from "./gen/sallyport/v1/token_validator_pb.ts";
import { StreamGuard } from "./guard.ts";
import { RequirementMap, type Requirements } from "./requirement.ts";
import { refusalOf, VERDICT_TRAILER } from "./status.ts";
import { NotSent, type Validator } from "./validator.ts";

export interface GrpcValidatorOptions {
  /** A token with `sallyport.validate`, where the server asks for one. */
  readonly bearer?: string;
  readonly channel?: ChannelOptions;
}

/** A way to the server at `address` (`host:port` or `unix:path`), with one connection for checks and one for the feed. */
export function grpcValidator(
  address: string,
  credentials: ChannelCredentials,
  { bearer, channel }: GrpcValidatorOptions = {},
): Validator {
  const connect = () => new Client(address, credentials, { ...channel, "grpc.use_local_subchannel_pool": 1 });
  const checks = connect();
  let feed: Client | undefined;
  const { validateToken, watchChanges } = TokenValidator.method;
  const metadata = () => {
    const sent = new Metadata();
    if (bearer !== undefined) sent.set("authorization", `Bearer ${bearer}`);
    return sent;
  };
  return {
    validate: (request, timeoutMs, attempt) =>
      // The first attempt fails at once without a connection; the second waits for one.
      unary(checks, validateToken, request, metadata(), timeoutMs, { waitForReady: attempt > 1 }),
    watch: (request, timeoutMs, signal) => {
      feed ??= connect();
      return unary(feed, watchChanges, request, metadata(), timeoutMs, { waitForReady: true, signal });
    },
    close: () => {
      checks.close();
      feed?.close();
    },
  };
}

interface UnaryMethod<I extends DescMessage, O extends DescMessage> {
  readonly name: string;
  readonly parent: { readonly typeName: string };
  readonly input: I;
  readonly output: O;
}

function unary<I extends DescMessage, O extends DescMessage>(
  client: Client,
  method: UnaryMethod<I, O>,
  request: MessageShape<I>,
  metadata: Metadata,
  timeoutMs: number,
  { waitForReady, signal }: { readonly waitForReady: boolean; readonly signal?: AbortSignal | undefined },
): Promise<MessageShape<O>> {
  metadata.setOptions({ waitForReady });
  const options: CallOptions = { deadline: Date.now() + Math.max(1, timeoutMs) };
  return new Promise((resolve, reject) => {
    const call = client.makeUnaryRequest(
      `/${method.parent.typeName}/${method.name}`,
      (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
      (bytes: Buffer) => fromBinary(method.output, bytes),
      request,
      metadata,
      options,
      (error: ServiceError | null, answer?: MessageShape<O>) => {
        signal?.removeEventListener("abort", cancel);
        if (answer !== undefined && error === null) resolve(answer);
        else reject(error !== null && notSent(error) ? new NotSent(error.details) : error);
      },
    );
    const cancel = () => call.cancel();
    signal?.addEventListener("abort", cancel);
  });
}

/** True if grpc-js had no connection to send the call on. */
function notSent({ code, details }: ServiceError): boolean {
  return code === 14 && /^(No connection established|Name resolution failed)/.test(details);
}

export interface AuthOptions {
  readonly checker: Checker;
  readonly requirements?: Requirements;
  /** The client's address, for tokens that are bound to networks. By default the peer of the connection. */
  readonly clientAddress?: (call: ServerInterceptingCallInterface, metadata: Metadata) => string;
}

const identities = new WeakMap<Metadata, Identity>();

/** The identity that admitted a call, in its handler. Throws for a public method: there is none. */
export function identityOf(call: { readonly metadata: Metadata }): Identity {
  const identity = identities.get(call.metadata);
  if (identity === undefined) throw new Error("the call was admitted without a token");
  return identity;
}

/**
 * Checks each call before its handler starts, and guards streams until they end. The handler sees the identity, never
 * the credential.
 */
export function authInterceptor({
  checker,
  requirements,
  clientAddress = peerAddress,
}: AuthOptions): ServerInterceptor {
  const map = new RequirementMap(requirements);
  return ({ path, requestStream, responseStream }, call) => {
    const requirement = map.of(path);
    if (requirement === "public") return call as ServerInterceptingCall;
    let guard: StreamGuard | undefined;
    let cancelled = false;
    const end = (verdict: Verdict) => call.sendStatus(statusOf(verdict));
    const pass = (message: () => void) => (guard === undefined ? message() : guard.pass(message));
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: async (metadata, next) => {
            const token = bearerOf(metadata.get("authorization").map(String));
            metadata.remove("authorization");
            const origin = { clientAddress: clientAddress(call, metadata), path };
            const opened = await checker.check(token, requirement, origin);
            if (cancelled) return;
            if (opened.verdict !== "ALLOW") return end(opened.verdict);
            identities.set(metadata, opened.identity!);
            if (requestStream || responseStream) {
              guard = new StreamGuard({ checker, token: token!, requirement, origin, opened, end });
            }
            next(metadata);
          },
          onReceiveMessage: (message, next) => pass(() => next(message)),
          onReceiveHalfClose: (next) => pass(next),
          onCancel: () => {
            cancelled = true;
            guard?.close();
          },
        }),
      sendMessage: (message, next) => pass(() => next(message)),
      sendStatus: (status, next) =>
        pass(() => {
          guard?.close();
          next(status);
        }),
    });
  };
}

function statusOf(verdict: Verdict) {
  const { code, message } = refusalOf(verdict);
  const metadata = new Metadata();
  metadata.set(VERDICT_TRAILER, verdict);
  return { code, details: message, metadata };
}

/** The peer's IP address without its port; empty for a unix socket. */
function peerAddress(call: ServerInterceptingCallInterface): string {
  const peer = call.getPeer();
  const address = peer.slice(0, peer.lastIndexOf(":"));
  return isIP(peer) > 0 ? peer : isIP(address) > 0 ? address : "";
}
