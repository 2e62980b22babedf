// The work that each Node peer does for a token: the product's own scanner and MAC, a look-up among 100,000 tokens, an
// encoded answer.
import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import type { AddressInfo, Server } from "node:net";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { walk } from "../../../src/data-plane/validate-token.ts";
import { Mac } from "../../../src/domain/mac.ts";
import { ValidateTokenResponseSchema, Verdict } from "../../../src/gen/sallyport/v1/token_validator_pb.ts";

export const VALIDATE = "/sallyport.v1.TokenValidator/ValidateToken";
const OTHERS = 100_000;

/** An answer of about the size of the product's. */
export const ALLOWED: MessageInitShape<typeof ValidateTokenResponseSchema> = {
  verdict: Verdict.ALLOW,
  token: {
    id: "tok_3fK9dJ2mQ7xW1aZ5bC8eR4",
    tenant: "default",
    profile: "pat",
    principal: "user:bench",
    scopes: ["items.read", "items.write"],
    expireTime: { seconds: 1_893_456_000n },
    hint: "sp_pat_1aB3dE5fG",
  },
};

export function encoded(response: MessageInitShape<typeof ValidateTokenResponseSchema>): Uint8Array {
  return toBinary(ValidateTokenResponseSchema, create(ValidateTokenResponseSchema, response));
}

/** A message after gRPC's five bytes. */
export function framed(message: Uint8Array): Buffer {
  const frame = Buffer.alloc(5 + message.length);
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, 5);
  return frame;
}

/** Maps an encoded ValidateTokenRequest to the result of `prepare` for the encoded answer. */
export function judge<T>(prepare: (answer: Uint8Array) => T): (message: Uint8Array) => T {
  const mac = new Mac(randomBytes(32));
  const allowed = prepare(encoded(ALLOWED));
  const refused = prepare(encoded({ verdict: Verdict.INVALID_TOKEN }));
  const table = new Map<string, T>();
  for (let i = 0; i < OTHERS; i++) table.set(randomBytes(32).toString("latin1"), refused);
  table.set(mac.latin1(process.env["PEER_TOKEN"]!), allowed);
  return (message) => {
    const { from, to } = walk(message)!;
    return table.get(mac.latin1At(message, from, to)!) ?? refused;
  };
}

/** Listens on PEER_BIND (host:port or unix:/path) until SIGTERM, and prints "listening ADDRESS". */
export function listen(server: Pick<Server, "listen" | "address">): void {
  const bind = process.env["PEER_BIND"]!;
  const said = (address: string) => process.stdout.write(`listening ${address}\n`);
  process.on("SIGTERM", () => process.exit(0));
  if (bind.startsWith("unix:")) {
    const path = bind.slice(5);
    rmSync(path, { force: true });
    server.listen(path, () => said(path));
    return;
  }
  const [host, port] = bind.split(":");
  server.listen(Number(port), host, () => said(`${host}:${(server.address() as AddressInfo).port}`));
}
