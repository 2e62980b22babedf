import { inspect } from "node:util";

/**
 * A value that never prints. Logs, errors, JSON and templates show `[secret]`. `reveal()` is called only where the
 * value is hashed and where it is handed to its one recipient.
 */
export class Secret {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return "[secret]";
  }

  toJSON(): string {
    return "[secret]";
  }

  [Symbol.toPrimitive](): string {
    return "[secret]";
  }

  [inspect.custom](): string {
    return "[secret]";
  }
}
