import type { Evidence } from "../domain/evidence.ts";
import type { TokenSnapshot } from "../domain/token-snapshot.ts";

// ---------------------------------------------------------------------------------------------------- reading

/** The rows behind a digest as of one snapshot of the primary. `snapshot` is absent for an unknown token. */
export interface Reading extends Evidence {
  readonly snapshot?: TokenSnapshot;
  /** Monotonic times before the send and after the receipt. */
  readonly sent: number;
  readonly received: number;
}

export interface TokenReader {
  /**
   * ONE statement on the primary. MUST be sent after the call. MUST settle within `timeoutMs`: then, and on any
   * failure, it rejects with STORE_UNAVAILABLE and its connection is destroyed. A reading of another epoch or in
   * recovery is returned as such; `reconnect` destroys the connection it came on.
   */
  read(digest: string, timeoutMs: number): Promise<Reading>;
  /** The last reading came from a server that must not be asked again: close every read connection. */
  reconnect(): void;
}

/** A cache outside the process. It is believed about nothing: what it returns passes the use rule. */
export interface TokenCache {
  /** Undefined for a miss, a bad seal, an error or a server that is away. Settles within 50 ms. */
  get(digest: string, epoch: string): Promise<TokenSnapshot | undefined>;
  /** Best effort, never awaited; an entry of a later position is not overwritten. */
  fill(snapshot: TokenSnapshot): void;
  readonly ready: boolean;
}

// ---------------------------------------------------------------------------------------------------- last use, events

export interface LastUseStore {
  /** Stores the latest use of each token; older values do not overwrite newer ones. */
  flush(uses: readonly { readonly tokenId: string; readonly time: number; readonly address: string }[]): Promise<void>;
}
