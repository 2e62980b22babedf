/** The units in milliseconds. */
export const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const DURATION = /^(?:\d{1,9}(?:ms|s|m|h|d))+$/;

/** The form that every help text and message names. */
export const DURATION_FORM = 'a duration such as "90d", "36h", "30m", "15s", "1500ms" or "1h30m"';

/** Parses "90d", "1h30m", "1500ms": whole numbers only. Returns milliseconds; undefined for any other text. */
export function parseDuration(text: string): number | undefined {
  if (!DURATION.test(text)) return undefined;
  let milliseconds = 0;
  for (const [, count, unit] of text.matchAll(/(\d{1,9})(ms|s|m|h|d)/g)) {
    milliseconds += Number(count) * UNITS[unit as keyof typeof UNITS];
  }
  return milliseconds;
}

/** A duration in its largest whole unit: "90d". */
export function durationText(milliseconds: number): string {
  const units = Object.entries(UNITS).reverse();
  const [unit, length] = units.find(([, length]) => milliseconds % length === 0) ?? ["ms", 1];
  return `${milliseconds / length}${unit}`;
}
