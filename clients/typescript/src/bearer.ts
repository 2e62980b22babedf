/** The token string of an `authorization` value; undefined if the scheme is not Bearer or there is more than one value. */
export function bearerOf(values: readonly string[]): string | undefined {
  if (values.length !== 1) return undefined;
  return /^bearer +([^\s,]+) *$/i.exec(values[0]!)?.[1];
}
