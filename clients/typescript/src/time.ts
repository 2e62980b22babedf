/** A Timestamp since 1970, or a Duration, in milliseconds with their fraction: a bound must not be rounded. */
export function milliseconds(time: { readonly seconds: bigint; readonly nanos: number }): number;
export function milliseconds(
  time: { readonly seconds: bigint; readonly nanos: number } | undefined,
): number | undefined;
export function milliseconds(time: { readonly seconds: bigint; readonly nanos: number } | undefined) {
  return time === undefined ? undefined : Number(time.seconds) * 1000 + time.nanos / 1_000_000;
}
