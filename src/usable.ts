import { ConfigError } from "./config/load.ts";
import type { Config } from "./config/schema.ts";
import { Keyring } from "./domain/keyring.ts";
import { tlsProblems } from "./listen/tls.ts";
import { urlProblem } from "./postgres/connect-errors.ts";
import { parseRedisUrl } from "./redis/redis-url.ts";
import { profilesOf, systemClock } from "./sallyport.ts";

/**
 * Whether a configuration that is well written can be used: its keyring, URLs, and the files that it names. Throws
 * ConfigError with every problem at once, each naming its key. Opens no connection.
 */
export function assertUsable(config: Config): void {
  const problems = [
    ...(["url", "direct_url"] as const).flatMap((key) => told(`database.${key}`, urlProblem(config.database[key]))),
    ...told(
      "",
      thrown(() => config.redis.url !== undefined && parseRedisUrl(config.redis.url)),
    ),
    ...told(
      "keyring",
      thrown(() => config.keyring && new Keyring(config.keyring.current, config.keyring.keys)),
    ),
    ...(["data", "admin"] as const).flatMap((name) => {
      const { tls } = config.listeners[name];
      if (tls === undefined || (name === "admin" && config.mode !== "full")) return [];
      const files = { certFile: tls.cert_file, keyFile: tls.key_file, clientCaFile: tls.client_ca_file };
      return tlsProblems(files, systemClock.wall()).map(
        ({ key, file, problem }) => `listeners.${name}.tls.${key}: ${file}: ${problem}`,
      );
    }),
  ];
  if (problems.length > 0) throw new ConfigError(problems);
  profilesOf(config);
}

function told(key: string, problem: string | undefined): string[] {
  return problem === undefined ? [] : [key === "" ? problem : `${key}: ${problem}`];
}

/** The text of the error that a check throws; only for errors of ours, whose texts hold no value. */
function thrown(check: () => unknown): string | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    const { name, message } = error as Error;
    if (name === "KeyringError" || name === "RedisUrlError") return message;
    throw error;
  }
}
