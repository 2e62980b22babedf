import type { AccessUse } from "../domain/access-event.ts";
import type { Evidence } from "../domain/evidence.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";

// ---------------------------------------------------------------------------------------------------- reading

/** The rows behind a digest in one snapshot of the primary. `snapshot` is absent for an unknown token. */
export interface Reading extends Evidence {
  /** The epoch is proven in the same snapshot: without that, the rows may lack revocations of an earlier epoch. */
  readonly proven: boolean;
  readonly snapshot?: TokenSnapshot;
  /** The monotonic times before the send and after the receipt. */
  readonly sent: number;
  readonly received: number;
}

export interface TokenReader {
  /**
   * ONE statement on the primary. MUST be sent after the call. MUST settle within `timeoutMs`: at that time, and on any
   * failure, it rejects with STORE_UNAVAILABLE and destroys its connection. A reading of another epoch or in recovery
   * is returned as it is; `reconnect` destroys the connection that it came on.
   */
  read(digest: string, timeoutMs: number): Promise<Reading>;
  /** The server of the last reading must not be asked again: closes every read connection. */
  reconnect(): void;
}

/** The L2 cache. It is not trusted: every row from it passes the use rule. */
export interface TokenCache {
  /** Undefined for a miss, a bad seal, an error or an unreachable server. Settles within 50 ms. */
  get(digest: string, epoch: string): Promise<TokenSnapshot | undefined>;
  /** Best effort, never awaited. An entry of a later position is not overwritten. */
  fill(snapshot: TokenSnapshot): void;
  readonly ready: boolean;
}

/** The facts that a client cache, which follows the change feed, needs to reuse an answer. */
export interface CacheEntry {
  /** The epoch by its name in the feed. */
  readonly epoch: Uint8Array;
  /** The answer includes every change up to this position. */
  readonly position: number;
  /** The names of everything that the answer rests on; none for INVALID_TOKEN. */
  readonly tags: readonly bigint[];
  readonly notBefore: number | undefined;
}

// ---------------------------------------------------------------------------------------------------- last use, events

export interface StoredUse {
  readonly tokenId: string;
  readonly time: number;
  readonly address: string;
  /** The uses since the last ones that were stored. */
  readonly count: number;
}

export interface LastUseStore {
  /**
   * Stores the latest use of each token, and adds the counts. Older times do not overwrite newer ones. Either all are
   * stored or none; after OUTCOME_UNKNOWN nobody knows which.
   */
  flush(uses: readonly StoredUse[]): Promise<void>;
}

export interface AccessLogStore {
  /** Adds rows. MUST settle within seconds, whatever holds the table. */
  append(rows: readonly AccessUse[]): Promise<void>;
}
