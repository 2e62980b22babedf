import { invalidField } from "../domain/errors.ts";
import { PRINCIPAL_TYPES } from "../domain/principal.ts";
import type { PageStart, Part } from "./ports.ts";

/*
 * A filter with a name that does not exist finds nothing, like a correct one can. A mistyped filter gets an error instead
 * of an empty list.
 */

/** True if a list is empty from its start to its end. */
export function foundNothing(part: Part<unknown>, start: PageStart | undefined): boolean {
  return start === undefined && part.rows.length === 0 && part.rest === undefined;
}

/** INVALID_FIELD unless there is such a type of principals. */
export function checkType(field: string, type: string | undefined): void {
  if (type === undefined || (PRINCIPAL_TYPES as readonly string[]).includes(type)) return;
  throw invalidField(field, `must be one of ${PRINCIPAL_TYPES.join(", ")}`);
}
