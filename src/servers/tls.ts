import { readFileSync } from "node:fs";
import { createSecureContext, type SecureContextOptions } from "node:tls";

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** Client certificates are asked for, and believed when this CA signed them. */
  readonly clientCaFile?: string;
  /** DNS or URI names. With them a client without a good certificate does not get through the handshake. */
  readonly allowedSans?: readonly string[];
}

/** Reads the files and proves that they fit together. Throws with the file's or OpenSSL's reason, never with key text. */
export function loadTls(files: TlsFiles): SecureContextOptions {
  const options: SecureContextOptions = {
    cert: readFileSync(files.certFile),
    key: readFileSync(files.keyFile),
    ...(files.clientCaFile === undefined ? {} : { ca: readFileSync(files.clientCaFile) }),
    minVersion: "TLSv1.2",
  };
  createSecureContext(options);
  return options;
}
