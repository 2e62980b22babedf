import { randomUUID } from "node:crypto";
import { type ContextKey, type ContextValues, createContextKey } from "@connectrpc/connect";
import type { Access } from "../app/access.ts";
import { AppError, invalidField } from "../domain/errors.ts";

/** What is known of a call before its body: made by the gate, read by handlers and the access log. */
export interface Call {
  readonly requestId: string;
  readonly access?: Access;
}

export const callKey: ContextKey<Call | undefined> = createContextKey<Call | undefined>(undefined, {
  description: "call",
});

/** The access of an authenticated call; a handler without one is a bug, and refused. */
export function accessOf(context: { readonly values: ContextValues }): Access {
  const access = context.values.get(callKey)?.access;
  if (access === undefined) throw new AppError("CALLER_UNAUTHENTICATED", "a credential is needed");
  return access;
}

/** The id of a request: the client's own where it is short and harmless, else a new one. */
export function requestIdFrom(header: string | null | undefined): string {
  return header !== null && header !== undefined && /^[A-Za-z0-9._-]{1,48}$/.test(header) ? header : randomUUID();
}

/** How many to read for a page: one more than shown, which tells whether there is another. */
export function pageSize(asked: number): number {
  if (asked < 0 || asked > 500) throw invalidField("page_size", "must be 0 to 500");
  return asked === 0 ? 50 : asked;
}

/** Cuts a list that was read one too long, and says where the next page begins. */
export function page<T>(rows: readonly T[], size: number): { shown: readonly T[]; last: T | undefined } {
  const shown = rows.slice(0, size);
  return { shown, last: rows.length > size ? shown[size - 1] : undefined };
}

/** For a field that the mask names and the message leaves out, where no value is the one to take. */
export function unspecified(field: string): never {
  throw invalidField(field, "must be given where update_mask names it");
}

/** The paths of an update mask, each one known, each once. INVALID_FIELD for others, and for an empty mask. */
export function maskOf<P extends string>(paths: readonly string[] | undefined, known: readonly P[]): ReadonlySet<P> {
  if (paths === undefined || paths.length === 0) {
    throw invalidField("update_mask", `must name at least one of ${known.join(", ")}`);
  }
  for (const path of paths) {
    if (!known.includes(path as P)) throw invalidField("update_mask", `must only name ${known.join(", ")}`);
  }
  return new Set(paths as P[]);
}
