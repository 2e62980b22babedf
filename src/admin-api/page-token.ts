import { AppError } from "../domain/errors.ts";
import type { Keyring } from "../domain/keyring.ts";
import { sameSecret } from "../domain/mac.ts";
import type { PageStart } from "../management/ports.ts";

const MAC_LENGTH = 16;

/**
 * Page tokens (AIP-158): opaque, authenticated, and bound to their caller, method and filter. Any other use is
 * INVALID_PAGE_TOKEN.
 */
export class PageTokens {
  readonly #keyring: Keyring;

  constructor(keyring: Keyring) {
    this.#keyring = keyring;
  }

  /**
   * `binding` is everything that selects the list, except page size and page token. Empty if there is no further page.
   */
  issue(start: PageStart | undefined, binding: readonly string[]): string {
    if (start === undefined) return "";
    const { kid, page } = this.#keyring.current;
    const body = Buffer.from(`${kid}${start.time}:${start.key}`, "utf8");
    const mac = page.fields(body, ...binding).subarray(0, MAC_LENGTH);
    return Buffer.concat([mac, body]).toString("base64url");
  }

  open(pageToken: string, binding: readonly string[]): PageStart | undefined {
    if (pageToken === "") return undefined;
    const bytes = Buffer.from(pageToken, "base64url");
    const body = bytes.subarray(MAC_LENGTH);
    const text = body.toString("utf8");
    const keys = this.#keyring.get(text.slice(0, 1));
    const mac = keys?.page.fields(body, ...binding).subarray(0, MAC_LENGTH);
    const match = /^.(\d+):(.*)$/s.exec(text);
    if (mac === undefined || match === null || !sameSecret(mac, bytes.subarray(0, MAC_LENGTH))) {
      const field = "page_token";
      const description = "must come from the page before, with the same filters and caller";
      throw new AppError("INVALID_PAGE_TOKEN", `${field} ${description}`, { violations: [{ field, description }] });
    }
    return { time: Number(match[1]), key: match[2]! };
  }
}
