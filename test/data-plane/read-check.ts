import { type CheckFacts, decodeCheck, factsOf } from "../../src/data-plane/check/check-request.ts";
import { CheckRequestScanner } from "../../src/data-plane/check/check-request-scanner.ts";

/** Reads a CheckRequest as the listener does: by the scanner where it can, else by the full decoder. */
export function readCheck(message: Uint8Array): CheckFacts {
  const view = new CheckRequestScanner();
  return (view.read(message) ? factsOf(view) : undefined) ?? decodeCheck(message);
}
