/**
 * Why the embedded PostgreSQL did not start: `in_use`, another instance runs on the same data folder; `unsupported`,
 * this machine cannot run it (platform, libraries, permissions); `failed`, anything else. The message is for the
 * operator and holds no secret.
 */
export class EmbeddedError extends Error {
  readonly kind: "in_use" | "unsupported" | "failed";

  constructor(kind: EmbeddedError["kind"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "EmbeddedError";
    this.kind = kind;
  }
}
