import { z } from "zod";

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** A duration in milliseconds, written `"1500ms"`, `"30s"`, `"5m"`, `"12h"`, `"90d"`. */
export const duration = z
  .string()
  .regex(/^\d{1,12}(ms|s|m|h|d)$/, 'must be a duration such as "1500ms", "30s", "5m", "12h", "90d"')
  .transform((text) => {
    const [, number, unit] = /^(\d+)(\D+)$/.exec(text) as unknown as [string, string, keyof typeof UNITS];
    return Number(number) * UNITS[unit];
  });

export function durationText(ms: number): string {
  const units = Object.entries(UNITS).reverse();
  const [unit, length] = units.find(([, length]) => ms % length === 0) ?? ["ms", 1];
  return `${ms / length}${unit}`;
}
