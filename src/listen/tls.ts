import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSecureContext, type SecureContextOptions } from "node:tls";
import { StartError } from "../domain/start-error.ts";

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** Client certificates are requested, and trusted if this CA signed them. */
  readonly clientCaFile?: string;
  /** DNS or URI names. A client certificate without any of them is refused. */
  readonly allowedSans?: readonly string[];
}

export interface TlsProblem {
  readonly key: "cert_file" | "key_file" | "client_ca_file";
  readonly file: string;
  readonly problem: string;
}

/**
 * Reads the files and checks that they fit together. Throws StartError, whose text names key and file, never a file's
 * content.
 */
export function loadTls(files: TlsFiles): SecureContextOptions {
  const { options, problems } = examine(files, undefined);
  if (problems.length > 0) {
    const texts = problems.map(({ key, file, problem }) => `tls.${key}: ${file}: ${problem}`);
    throw new StartError("tls_files_invalid", texts.join("; "));
  }
  return options;
}

/** The time at which the server's own certificate, the first of the options', ends: seconds since 1970. */
export function certificateEnd({ cert }: SecureContextOptions): number {
  return certificatesOf(String(cert))[0]!.validToDate.getTime() / 1000;
}

/**
 * True if each certificate of the options is issued by the one after it. Otherwise clients that lack the missing one
 * refuse the connection.
 */
export function isChain({ cert }: SecureContextOptions): boolean {
  const chain = certificatesOf(String(cert));
  return chain.every((one, i) => chain[i + 1] === undefined || one.checkIssued(chain[i + 1]!));
}

/** The problems of the files at a time: milliseconds since 1970; undefined: at any time. */
export function tlsProblems(files: TlsFiles, now: number | undefined): readonly TlsProblem[] {
  return examine(files, now).problems;
}

function examine(files: TlsFiles, now: number | undefined): { options: SecureContextOptions; problems: TlsProblem[] } {
  const problems: TlsProblem[] = [];
  const tell = (key: TlsProblem["key"], file: string, problem: string) => void problems.push({ key, file, problem });
  const read = (key: TlsProblem["key"], file: string): string | undefined => {
    try {
      return readFileSync(file, "utf8");
    } catch (error) {
      tell(key, file, unreadable((error as NodeJS.ErrnoException).code));
      return undefined;
    }
  };
  const cert = read("cert_file", files.certFile);
  const key = read("key_file", files.keyFile);
  const ca = files.clientCaFile === undefined ? undefined : read("client_ca_file", files.clientCaFile);

  const chain = cert === undefined ? [] : certificatesOf(cert);
  const [leaf] = chain;
  if (cert !== undefined && leaf === undefined) tell("cert_file", files.certFile, "holds no PEM certificate");
  const secret = key === undefined ? undefined : privateKeyOf(key);
  if (key !== undefined && secret === undefined)
    tell("key_file", files.keyFile, "holds no PEM private key without a passphrase");
  if (leaf !== undefined && secret !== undefined && !leaf.checkPrivateKey(secret))
    tell("key_file", files.keyFile, "is not the key of the certificate in cert_file");
  const roots = ca === undefined ? [] : certificatesOf(ca);
  if (ca !== undefined && roots.length === 0)
    tell("client_ca_file", files.clientCaFile!, "holds no PEM certificate, or one that cannot be read");
  if (now !== undefined) {
    const end = leaf === undefined ? undefined : outOfTime(leaf, now);
    if (end !== undefined) tell("cert_file", files.certFile, end);
    // Some certificates of a bundle may have expired.
    const ends = roots.map((root) => outOfTime(root, now));
    if (ends.length > 0 && !ends.includes(undefined)) tell("client_ca_file", files.clientCaFile!, ends[0]!);
  }
  const options = { cert, key, ...(ca !== undefined && { ca }), minVersion: "TLSv1.2" } as const;
  if (problems.length === 0) {
    try {
      createSecureContext(options);
    } catch (error) {
      tell("cert_file", files.certFile, `OpenSSL refuses it (${(error as { code?: string }).code ?? "error"})`);
    }
  }
  return { options, problems };
}

/** Every certificate of a PEM text; none where one of them cannot be read. */
function certificatesOf(text: string): X509Certificate[] {
  const blocks = text
    .split(/(?=-----BEGIN )/)
    .filter((block) => /^-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----/.test(block));
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch {
    return [];
  }
}

function privateKeyOf(text: string): KeyObject | undefined {
  try {
    return createPrivateKey(text);
  } catch {
    return undefined;
  }
}

function outOfTime(certificate: X509Certificate, now: number): string | undefined {
  const { validFromDate: from, validToDate: to } = certificate;
  if (now > to.getTime()) return `has expired on ${to.toISOString()}`;
  return now < from.getTime() ? `is good only from ${from.toISOString()}` : undefined;
}

function unreadable(code: string | undefined): string {
  if (code === "ENOENT") return "there is no such file";
  if (code === "EACCES" || code === "EPERM") return "this user may not read it";
  if (code === "EISDIR") return "it is a folder";
  return `it cannot be read (${code ?? "error"})`;
}
