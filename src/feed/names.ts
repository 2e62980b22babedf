import { hkdfSync } from "node:crypto";
import { incarnationOf } from "../domain/epoch.ts";
import { Mac } from "../domain/mac.ts";

/** The names of one epoch as client caches see them. */
export interface Names {
  /** The database's own text for the epoch. */
  readonly of: string;
  /** 16 bytes. */
  readonly epoch: Uint8Array;
  /** The name of a dependency key. Two keys with one tag cost a miss, never a wrong answer. */
  tag(key: string): bigint;
}

/**
 * Makes tags and epochs. They hide digests and names, and are the same in all instances, because the key comes from the
 * incarnation.
 */
export class FeedNames {
  #last: Names | undefined;

  of(epoch: string): Names {
    if (this.#last?.of !== epoch) this.#last = namesOf(epoch);
    return this.#last;
  }
}

function namesOf(epoch: string): Names {
  const mac = new Mac(new Uint8Array(hkdfSync("sha256", incarnationOf(epoch), "", "feed", 32)));
  const bytes = (text: string, length: number) => Buffer.from(mac.latin1(text).slice(0, length), "latin1");
  return {
    of: epoch,
    epoch: bytes(epoch, 16),
    tag: (key) => bytes(key, 8).readBigUInt64LE(),
  };
}
