import type {
  ValidateTokenRequest,
  ValidateTokenResponse,
  WatchChangesRequest,
  WatchChangesResponse,
} from "./gen/sallyport/v1/token_validator_pb.ts";

/** A way to the server. Each method rejects when there is no answer within `timeoutMs`. */
export interface Validator {
  /** Rejects with `NotSent` if no byte of the request left this process. */
  validate(request: ValidateTokenRequest, timeoutMs: number, attempt: number): Promise<ValidateTokenResponse>;
  /** The change feed, on a connection that no check shares: checks must not hold it back. */
  watch(request: WatchChangesRequest, timeoutMs: number, signal?: AbortSignal): Promise<WatchChangesResponse>;
  close(): void;
}

/** No byte of a request left this process, so it may be sent again. */
export class NotSent extends Error {}
