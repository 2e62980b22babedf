import type { Command } from "commander";
import { wholeNumber } from "./flags.ts";
import type { Session } from "./session.ts";

const LARGEST_PAGE = 500;

export interface PageOptions {
  readonly limit: number;
  readonly all?: true;
}

/** `--limit` and `--all`. */
export function pageFlags(command: Command): Command {
  return command
    .option("--limit <count>", "the largest number of items, newest first", wholeNumber, 50)
    .option("--all", "all items");
}

/**
 * Requests page after page until there are enough items or no more pages. Returns the first response with the items of
 * all pages and the last page's `nextPageToken`; `items` finds the list in a response.
 */
export async function pages<Response extends { nextPageToken: string }>(
  { limit, all }: PageOptions,
  ask: (page: { pageSize: number; pageToken: string }) => Promise<Response>,
  items: (response: Response) => unknown[],
): Promise<Response> {
  const wanted = all === true ? Number.POSITIVE_INFINITY : limit;
  const whole = await ask({ pageSize: Math.min(wanted, LARGEST_PAGE), pageToken: "" });
  const found = items(whole);
  while (whole.nextPageToken !== "" && found.length < wanted) {
    const pageSize = Math.min(wanted - found.length, LARGEST_PAGE);
    const next = await ask({ pageSize, pageToken: whole.nextPageToken });
    for (const item of items(next)) found.push(item);
    whole.nextPageToken = next.nextPageToken;
  }
  return whole;
}

/** Notes for people that a list is incomplete. */
export function noteMore(session: Session, response: { nextPageToken: string }): void {
  if (response.nextPageToken !== "") session.note("There are more: --limit COUNT, or --all.");
}
