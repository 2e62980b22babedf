/** C0 and C1 controls, line and paragraph separators, and the characters that change the direction of text. */
const UNSAFE = /[\p{Cc}\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

/**
 * Makes foreign text harmless for a terminal: a character that could move the cursor or turn the text is shown as
 * `\u{…}`.
 */
export function visible(text: string): string {
  return text.replace(UNSAFE, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`);
}
