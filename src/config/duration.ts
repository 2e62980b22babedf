import { z } from "zod";
import { DURATION_FORM, parseDuration } from "../domain/duration.ts";

/** A duration in milliseconds. */
export const duration = z.string().transform((text, context) => {
  const milliseconds = parseDuration(text);
  if (milliseconds !== undefined) return milliseconds;
  context.addIssue({ code: "custom", message: `must be ${DURATION_FORM}` });
  return z.NEVER;
});
