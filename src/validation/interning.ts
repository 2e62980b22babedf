import type { TokenSnapshot, Version } from "../domain/token-snapshot.ts";

const MOST = 10_000;
/** The approximate size of a kept value besides its characters. */
const EACH = 128;
const NONE: readonly string[] = Object.freeze([]);
const NOT_ATTACHED: TokenSnapshot["attachments"] = Object.freeze([]);
const NO_ANNOTATIONS: Readonly<Record<string, string>> = Object.freeze({});

/**
 * One copy of values that many rows share: tenants, principals, lists of scopes. A driver creates each row's values
 * anew; shared, they need half the memory of a cached row. Bounded in number and bytes. It starts over when it is full.
 */
export class Interning {
  readonly #mostBytes: number;
  #bytes = 0;
  #version: Version | undefined;
  readonly #texts = new Map<string, string>();
  readonly #lists = new Map<string, readonly string[]>();

  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  /** The approximate size of the kept values in bytes. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Returns equal facts in as little memory as possible. */
  share(m: TokenSnapshot): TokenSnapshot {
    const shared = {
      ...m,
      version: this.#versionOf(m.version),
      tenant: this.#text(m.tenant),
      profile: this.#text(m.profile),
      principal: this.#text(m.principal),
      scopes: this.#list(m.scopes),
      roles: this.#list(m.roles),
      attachments: this.#attachments(m.attachments),
      audiences: this.#list(m.audiences),
      allowedCidrs: this.#list(m.allowedCidrs),
      annotations: Object.keys(m.annotations).length === 0 ? NO_ANNOTATIONS : m.annotations,
      principalState: this.#text(m.principalState),
      tenantState: this.#text(m.tenantState),
    };
    const { parent } = m;
    if (parent === undefined) return shared;
    const [audiences, allowedCidrs] = [this.#list(parent.audiences), this.#list(parent.allowedCidrs)];
    return { ...shared, parent: { ...parent, audiences, allowedCidrs } };
  }

  /** Between two changes all rows are read at one position. */
  #versionOf({ epoch, position: n }: Version): Version {
    if (this.#version?.position !== n || this.#version.epoch !== epoch)
      this.#version = { epoch: this.#text(epoch), position: n };
    return this.#version;
  }

  #attachments(attachments: TokenSnapshot["attachments"]): TokenSnapshot["attachments"] {
    if (attachments.length === 0) return NOT_ATTACHED;
    return attachments.map(({ tenant, tenantState, cut }) => ({
      tenant: this.#text(tenant),
      tenantState: this.#text(tenantState),
      cut,
    }));
  }

  #text<T extends string>(text: T): T {
    return this.#one(this.#texts, text, text) as T;
  }

  #list(list: readonly string[]): readonly string[] {
    return list.length === 0 ? NONE : this.#one(this.#lists, JSON.stringify(list), list);
  }

  #one<V>(known: Map<string, V>, key: string, value: V): V {
    const first = known.get(key);
    if (first !== undefined) return first;
    // A list is kept beside its key, which holds the same characters.
    const bytes = EACH + 2 * key.length;
    if (bytes > this.#mostBytes) return value;
    if (known.size >= MOST || this.#bytes + bytes > this.#mostBytes) {
      this.#texts.clear();
      this.#lists.clear();
      this.#bytes = 0;
    }
    known.set(key, value);
    this.#bytes += bytes;
    return value;
  }
}
