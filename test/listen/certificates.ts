import { createPublicKey, createSign, generateKeyPairSync, type KeyObject, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

// Just enough DER (X.690) for X.509 certificates, so that TLS tests need no program beside Node.
const der = (tag: number, ...parts: Uint8Array[]): Buffer => {
  const body = Buffer.concat(parts);
  const n = body.length;
  const length =
    n < 128
      ? [n]
      : n < 256
        ? [0x81, n]
        : n < 65_536
          ? [0x82, n >> 8, n & 255]
          : [0x83, n >> 16, (n >> 8) & 255, n & 255];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
};
const sequence = (...parts: Uint8Array[]) => der(0x30, ...parts);
const oid = (hex: string) => der(0x06, Buffer.from(hex, "hex"));
const time = (offsetDays: number) => {
  const text = new Date(Date.now() + offsetDays * 86_400_000).toISOString().replace(/[-:T]|\.\d+/g, "");
  return der(0x18, Buffer.from(text));
};
const name = (cn: string) => sequence(der(0x31, sequence(oid("550403"), der(0x0c, Buffer.from(cn)))));
const ECDSA_SHA256 = sequence(oid("2a8648ce3d040302"));

export interface Identity {
  readonly cn: string;
  readonly key: KeyObject;
  readonly certPem: string;
  readonly keyPem: string;
}

export type San = { readonly dns: string } | { readonly uri: string } | { readonly ip: string };

/** A certificate of `issuer`, or a self-signed CA without one. */
export function certify(
  cn: string,
  sans: readonly San[],
  issuer?: Identity,
  /** Another key than a fresh one; from and until when it is good, in days from now. */
  { key, days = [-1, 30] }: { key?: Identity; days?: readonly [from: number, until: number] } = {},
): Identity {
  const privateKey = key?.key ?? generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  const publicKey = createPublicKey(privateKey);
  const names = sans.map((san) => {
    if ("dns" in san) return der(0x82, Buffer.from(san.dns, "latin1"));
    if ("uri" in san) return der(0x86, Buffer.from(san.uri, "latin1"));
    return der(0x87, Buffer.from(san.ip.split(".").map(Number)));
  });
  const extension = (id: string, value: Uint8Array) => sequence(oid(id), der(0x04, value));
  const extensions = [
    ...(issuer ? [] : [extension("551d13", sequence(der(0x01, Buffer.from([0xff]))))]),
    ...(names.length > 0 ? [extension("551d11", sequence(...names))] : []),
  ];
  const toSign = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(8)])),
    ECDSA_SHA256,
    name(issuer?.cn ?? cn),
    sequence(time(days[0]), time(days[1])),
    name(cn),
    publicKey.export({ type: "spki", format: "der" }),
    ...(extensions.length > 0 ? [der(0xa3, sequence(...extensions))] : []),
  );
  const signature = createSign("sha256")
    .update(toSign)
    .sign(issuer?.key ?? privateKey);
  const certificate = sequence(toSign, ECDSA_SHA256, der(0x03, Buffer.from([0]), signature));
  const body = certificate.toString("base64").replace(/.{64}/g, "$&\n").trimEnd();
  return {
    cn,
    key: privateKey,
    certPem: `-----BEGIN CERTIFICATE-----\n${body}\n-----END CERTIFICATE-----\n`,
    keyPem: privateKey.export({ type: "pkcs8", format: "pem" }) as string,
  };
}

/** Writes what a listener reads: `cert.pem`, `key.pem` and, with a CA, `ca.pem`. */
export function writeFiles(folder: string, server: Identity, clientCa?: Identity) {
  const files = { certFile: join(folder, "cert.pem"), keyFile: join(folder, "key.pem") };
  writeFileSync(files.certFile, server.certPem);
  writeFileSync(files.keyFile, server.keyPem);
  if (clientCa === undefined) return files;
  const clientCaFile = join(folder, "ca.pem");
  writeFileSync(clientCaFile, clientCa.certPem);
  return { ...files, clientCaFile };
}
