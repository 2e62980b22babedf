import type { Verdict } from "./decide.ts";

/** Uses of one token within a second that were alike. */
export interface AccessUse {
  /** The time of the latest of them. */
  readonly time: number;
  readonly tenant: string;
  readonly principal: string;
  readonly tokenId: string;
  readonly hint: string;
  readonly profile: string;
  readonly verdict: Verdict;
  readonly reason: string;
  /** Those that were required, as is the audience. */
  readonly scopes: readonly string[];
  readonly audience: string;
  readonly method: string;
  readonly host: string;
  readonly path: string;
  readonly workload: string;
  readonly address: string;
  readonly listener: string;
  readonly uses: number;
}

export interface AccessEvent extends AccessUse {
  readonly sequence: number;
}
