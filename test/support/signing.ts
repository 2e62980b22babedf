import { createSign, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { freshSigning, SigningKeys, type SigningSettings } from "../../src/domain/signing-keys.ts";

export const ISSUER = "https://tokens.example";

/** The settings of a server with one key of each algorithm. */
export function signingSettings(): Omit<SigningSettings, "keys"> & { keys: Record<string, Record<string, unknown>> } {
  return structuredClone(freshSigning(ISSUER)) as never;
}

export function signingKeys(settings = signingSettings()): SigningKeys {
  return new SigningKeys(settings);
}

export const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
export const unpart = (text: string) =>
  JSON.parse(Buffer.from(text, "base64url").toString()) as Record<string, unknown>;

/** The order of P-256. */
const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;

/** The other signature of ES256 that verifies: (r, order - s). Anybody can make it. */
export function otherForm(signature: string): string {
  const bytes = Buffer.from(signature, "base64url");
  const s = ORDER - BigInt(`0x${bytes.toString("hex", 32)}`);
  bytes.write(s.toString(16).padStart(64, "0"), 32, "hex");
  return bytes.toString("base64url");
}

const STRANGER = {
  ed: generateKeyPairSync("ed25519").privateKey,
  ec: generateKeyPairSync("ec", { namedCurve: "P-256" }),
};
const es256 = (text: string, key: KeyObject) =>
  createSign("sha256").update(text).sign({ key, dsaEncoding: "ieee-p1363" }).toString("base64url");

/** The last character of a part, with one of the bits changed that a decoder ignores. */
function loose(text: string): string {
  const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  return text.slice(0, -1) + digits[digits.indexOf(text.at(-1)!) ^ 1]!;
}

/** What can be made of a good JWT of ours without its key. `es` is one of ES256, `ed` one of EdDSA, by the same server. */
export function forgeries(ed: string, es: string): [name: string, text: string][] {
  const [header, claims, signature] = ed.split(".") as [string, string, string];
  const [esHeader, esClaims, esSignature] = es.split(".") as [string, string, string];
  const said = unpart(claims);
  const head = unpart(header);
  const byStranger = (h: string, c: string) =>
    `${h}.${c}.${sign(null, Buffer.from(`${h}.${c}`), STRANGER.ed).toString("base64url")}`;
  return [
    ["a foreign signature", byStranger(header, claims)],
    [
      "a foreign signature of ES256",
      `${esHeader}.${esClaims}.${es256(`${esHeader}.${esClaims}`, STRANGER.ec.privateKey)}`,
    ],
    ["another subject", `${header}.${part({ ...said, sub: "user:root" })}.${signature}`],
    ["another id", `${header}.${part({ ...said, jti: `tok_${"0".repeat(22)}` })}.${signature}`],
    ["more scopes", `${header}.${part({ ...said, scope: "sallyport.operator" })}.${signature}`],
    ["another tenant", `${header}.${part({ ...said, tenant: "other" })}.${signature}`],
    ["no end", `${header}.${part({ ...said, exp: undefined })}.${signature}`],
    [
      "the claims with their keys in another order",
      `${header}.${part(Object.fromEntries(Object.entries(said).reverse()))}.${signature}`,
    ],
    ["alg none without a signature", `${part({ ...head, alg: "none" })}.${claims}.`],
    ["alg none with the signature", `${part({ ...head, alg: "none" })}.${claims}.${signature}`],
    ["HS256 with the public key", `${part({ ...head, alg: "HS256" })}.${claims}.${signature}`],
    ["the header of the other algorithm", `${esHeader}.${claims}.${signature}`],
    ["the other algorithm's name", `${part({ ...head, alg: "ES256" })}.${claims}.${signature}`],
    ["the signature of another token", `${header}.${claims}.${esSignature}`],
    ["the other form of an ES256 signature", `${esHeader}.${esClaims}.${otherForm(esSignature)}`],
    ["a loose last character of the signature", `${header}.${claims}.${loose(signature)}`],
    ["a loose last character of an ES256 signature", `${esHeader}.${esClaims}.${loose(esSignature)}`],
    ["padding", `${ed}==`],
    ["a newline at the end", `${ed}\n`],
    ["a space inside", `${header}.${claims} .${signature}`],
    ["the other base64 alphabet", `${header}.${claims}.${`+${signature.slice(1)}`}`],
    ["no signature", `${header}.${claims}.`],
    ["two parts", `${header}.${claims}`],
    ["four parts", `${ed}.${signature}`],
    ["empty claims", `${header}..${signature}`],
    ["a short signature", `${header}.${claims}.${signature.slice(0, -2)}`],
    ["an empty signature of the right width", `${header}.${claims}.${"A".repeat(86)}`],
    ["the header with another member", `${part({ ...head, crit: ["b64"] })}.${claims}.${signature}`],
    ["a header with a key in it", byStranger(part({ ...head, jwk: STRANGER.ed.export({ format: "jwk" }).x }), claims)],
    [
      "a header with its members in another order",
      byStranger(part(Object.fromEntries(Object.entries(head).reverse())), claims),
    ],
    ["a header with a space", byStranger(Buffer.from(`${JSON.stringify(head)} `).toString("base64url"), claims)],
    ["an unknown key id", byStranger(part({ ...head, kid: "ed-2" }), claims)],
    ["a path as the key id", byStranger(part({ ...head, kid: "../../dev/null" }), claims)],
    ["an unknown pepper", byStranger(part({ ...head, pk: "9" }), claims)],
    ["typ of a session", byStranger(part({ ...head, typ: "at+jwt" }), claims)],
    ["not ASCII", `${header}.${claims.slice(0, -1)}é.${signature}`],
    ["5,000 characters", `${header}.${"A".repeat(5000)}.${signature}`],
  ];
}
