import { issuerCaFiles } from "./config/issuers.ts";
import type { Config } from "./config/schema.ts";
import { Keyring } from "./domain/keyring.ts";
import { SigningKeys } from "./domain/signing-keys.ts";
import { StartError } from "./domain/start-error.ts";
import { tlsProblems } from "./listen/tls.ts";
import { urlProblem } from "./postgres/connect-errors.ts";
import { parseRedisUrl } from "./redis/redis-url.ts";
import { systemClock } from "./sallyport.ts";
import { clientSecretProblem } from "./sessions/client-secret.ts";
import { caProblem } from "./sessions/fetch-document.ts";

/**
 * Checks that a well-formed configuration can be used: its keyring, its URLs and the files that it names. Throws
 * StartError with every problem at once; each names its key. Opens no connection.
 */
export function assertUsable(config: Config): void {
  const problems = [
    ...(["url", "direct_url"] as const).flatMap((key) => {
      const problem = urlProblem(config.database[key]);
      return problem === undefined ? [] : [`database.${key}: ${problem}`];
    }),
    ...(urlProblem(config.journal.url) === undefined ? [] : [`journal.url: ${urlProblem(config.journal.url)}`]),
    ...thrown(() => config.redis.url !== undefined && parseRedisUrl(config.redis.url)),
    ...thrown(() => config.keyring && new Keyring(config.keyring.current, config.keyring.keys)),
    ...thrown(() => config.signing && new SigningKeys(config.signing)),
    ...(["data", "admin"] as const).flatMap((name) => {
      const { tls } = config.listeners[name];
      if (tls === undefined || (name === "admin" && config.mode !== "full")) return [];
      const files = { certFile: tls.cert_file, keyFile: tls.key_file, clientCaFile: tls.client_ca_file };
      return tlsProblems(files, systemClock.wall()).map(
        ({ key, file, problem }) => `listeners.${name}.tls.${key}: ${file}: ${problem}`,
      );
    }),
    ...issuerCaFiles(config).flatMap(([key, file]) => {
      const problem = caProblem(file);
      return problem === undefined ? [] : [`${key}: ${file}: ${problem}`];
    }),
    ...config.console.oidc.flatMap(({ client_secret_file: file }, i) => {
      const problem = clientSecretProblem(file);
      return problem === undefined ? [] : [`console.oidc.${i}.client_secret_file: ${file}: ${problem}`];
    }),
  ];
  if (problems.length > 0) throw new StartError("config_invalid", problems);
}

/** The problems of the StartError that a check throws. */
function thrown(check: () => unknown): readonly string[] {
  try {
    check();
    return [];
  } catch (error) {
    if (error instanceof StartError) return error.problems;
    throw error;
  }
}
