import { AppError } from "../domain/errors.ts";
import type { Keyring } from "../domain/keyring.ts";
import { type SigningAlgorithm, type SigningKey, signingKid } from "../domain/signing-keys.ts";
import type { PepperRegistry } from "./ports.ts";

/** The pepper to mint under: the current one if every running instance has it, otherwise another that all have. */
export async function mintKid(keyring: Keyring, registry: PepperRegistry): Promise<string> {
  const { kid } = keyring.current;
  const kids = keyring.kids();
  if (kids.length === 1) return kid;
  const known = await registry.kidsOfAll(kids);
  if (known.includes(kid)) return kid;
  const [other] = known;
  if (other === undefined) {
    throw new AppError(
      "NOT_DONE",
      "no pepper of this instance is known to every running instance; nothing more was issued",
    );
  }
  return other;
}

/** A key that signs, and the issuer that its tokens name. */
export interface Signer {
  readonly key: SigningKey;
  readonly issuer: string;
}

/**
 * The key to sign with: the current one of the algorithm if every running instance has it, otherwise another that all
 * have. Unlike a pepper it is always asked for, because an older program knows no signing key at all. NO_SIGNING_KEY if
 * none can sign.
 */
export async function mintSigner(
  { signing }: Pick<Keyring, "signing">,
  registry: PepperRegistry,
  alg: SigningAlgorithm,
): Promise<Signer> {
  const signers = signing?.signers(alg) ?? [];
  if (signing === undefined || signers.length === 0)
    throw new AppError("NO_SIGNING_KEY", `this instance has no key that signs with ${alg}`);
  const known = new Set(await registry.kidsOfAll(signers.map(signingKid)));
  const key = signers.find((one) => known.has(signingKid(one)));
  if (key === undefined) {
    const text = "no signing key of this instance is known to every running instance; nothing more was issued";
    throw new AppError("NOT_DONE", text, { retryAfterMs: 5_000 });
  }
  return { key, issuer: signing.issuer };
}
