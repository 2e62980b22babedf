import { AppError } from "../domain/errors.ts";
import type { Keyring } from "../domain/keyring.ts";
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
    throw new AppError("NOT_DONE", "no pepper of this instance is known to every running instance; nothing was issued");
  }
  return other;
}
