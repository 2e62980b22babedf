import { expect, test } from "vitest";
import { freshKeyring, Keyring } from "../../src/domain/keyring.ts";
import { recordedPath, recordedText } from "../../src/domain/recorded-text.ts";
import { mintTokenString } from "../../src/domain/token-string.ts";

const token = mintTokenString("sp_pat", new Keyring("1", freshKeyring().keys).current).tokenString.reveal();
const jwt = `eyJhbGciOiJFZERTQSJ9.${Buffer.from('{"sub":"user:ann","jti":"tok_1"}').toString("base64url")}.${"aB3".repeat(29)}`;
const encoded = (text: string) => [...Buffer.from(text)].map((octet) => `%${octet.toString(16)}`).join("");

test("a usual path stays as it is", () => {
  for (const path of [
    "",
    "/",
    "/v1/repos/acme/site/commits/0123456789abcdef0123456789abcdef01234567",
    "/tokens/tok_0000000000000000000001/3F2504E0-4F89-11D3-9A0C-0305E82C3301",
    "/%C3%A9t%C3%A9/a%20b",
    "/a-long-name-of-an-article-about-many-things-2026",
  ]) {
    expect(recordedPath(path, false)).toBe(path);
  }
});

test.each([
  ["alone", (text: string) => text],
  ["in the middle of a segment", (text: string) => `x=${text};y`],
  ["percent-encoded", encoded],
  ["encoded twice", (text: string) => encoded(encoded(text))],
  ["encoded five times", (text: string) => [1, 2, 3].reduce(encoded, encoded(encoded(text.slice(0, 12)) + text))],
  ["without its start", (text: string) => text.slice(12)],
  ["without its end", (text: string) => text.slice(0, -20)],
])("a token string or a JWT %s is [token]", (_, form) => {
  for (const secret of [token, jwt]) {
    expect(recordedPath(`/a/${form(secret)}/b`, false)).toBe("/a/[token]/b");
    expect(recordedText(form(secret), 1000)).toBe("[token]");
  }
});

test("a path has at most 256 bytes, ends at a whole character, and never in a part of a token string", () => {
  const long = recordedPath(`/${"é".repeat(500)}`, false);
  expect(Buffer.byteLength(long)).toBeLessThanOrEqual(256);
  expect(long).toMatch(/^\/é+…$/);
  for (let at = 150; at < 260; at++) {
    const path = recordedPath(`/${"a/".repeat(at / 2)}${token}/rest`, false);
    for (let i = 0; i + 8 <= 49; i++) expect(path).not.toContain(token.slice(-49).slice(i, i + 8));
  }
  // The start of what is missing may be a token string's.
  expect(recordedPath(`/a/${token.slice(0, 27)}`, true)).toBe("/a/…");
});

test("no text has a character that the database or a terminal takes amiss", () => {
  expect(recordedPath("/a\0b\u001b[2J\ud800\u2028", false)).toBe("/a?b?[2J??");
});
