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
    .option("--limit <count>", "at most so many, newest first", wholeNumber, 50)
    .option("--all", "all there are");
}

/**
 * Asks for page after page until there are as many items as wanted or no more. Returns the first response with the
 * items of all pages and the last page's `nextPageToken`; `items` reaches into a response for its list.
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

/** Says to people that a list is not all. */
export function noteMore(session: Session, response: { nextPageToken: string }): void {
  if (response.nextPageToken !== "") session.note("There are more: --limit COUNT, or --all.");
}
