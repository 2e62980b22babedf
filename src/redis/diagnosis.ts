import { type Finding, finding } from "../domain/finding.ts";
import { StartError } from "../domain/start-error.ts";
import { openRedis, replyCode } from "./client.ts";
import { PREFIX } from "./token-cache.ts";
import { CHANNEL } from "./wakeups.ts";

const COMMAND_MS = 1_000;
const READY_MS = 2_000;
const ACL = `${PREFIX}* &${CHANNEL} -@all +get +set +eval +evalsha +publish +subscribe +ping`;

/** Replies of the server, and failures of the network and of TLS, by their code. */
const WORDS: Readonly<Record<string, string>> = {
  WRONGPASS: "Redis refuses the password of this user: check user and password",
  NOAUTH: "Redis asks for a password: write it in redis.url",
  NOPERM: `this user lacks a right: give it ~${ACL}`,
  READONLY: "this server is a replica: redis.url must lead to the primary",
  OOM: "Redis is out of memory: set maxmemory-policy allkeys-lru",
  MISCONF: "Redis refuses writes, because it cannot save to its disk: look at its log",
  LOADING: "Redis is still loading its data",
  CLUSTERDOWN: "the cluster has slots without a primary",
  MOVED: "this server is a node of a cluster: write redis-cluster://",
  ECONNREFUSED: "nothing listens at this host and port: is Redis running, and is the port right?",
  ENOTFOUND: "the host is not known: check its name",
  ETIMEDOUT: "the host does not answer",
  EPROTO: "what answers there does not speak TLS: write redis://, or give Redis a TLS port",
};

/**
 * The checks of Redis for `sallyport doctor`. They change nothing: the one write is for a key that must exist already,
 * and none has its name. A wake-up costs each instance one poll.
 */
export async function diagnoseRedis(url: string | undefined): Promise<Finding[]> {
  if (url === undefined) return [finding("redis.reach", "ok", "off: no redis.url")];
  const first = Promise.withResolvers<unknown>();
  let client: ReturnType<typeof openRedis>;
  try {
    client = openRedis(url, COMMAND_MS, (error) => first.resolve(error));
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    return [finding("redis.reach", "fail", error.problems.join("; "))];
  }
  const timer = setTimeout(() => first.resolve(new Error("timeout")), READY_MS);
  client.on("ready", () => first.resolve(undefined));
  try {
    const problem = await first.promise;
    if (problem !== undefined) return [finding("redis.reach", "fail", `redis.url: ${wordsOf(problem)}`)];
    const key = `${PREFIX}doctor`;
    const probes: Readonly<Record<string, () => Promise<unknown>>> = {
      ping: () => client.ping(),
      get: () => client.getBuffer(key),
      set: () => client.set(key, "", "PX", 1, "XX"),
      eval: () => client.eval("return 1", 1, key),
      evalsha: () => client.evalsha("0".repeat(40), 1, key),
      publish: () => client.publish(CHANNEL, ""),
    };
    const errors: [command: string, error: unknown][] = [];
    const ask = async (command: string, probe: () => Promise<unknown>) => {
      await probe().catch((error) => {
        if (replyCode(error) !== "NOSCRIPT") errors.push([command, error]);
      });
    };
    await Promise.all(Object.entries(probes).map(([command, probe]) => ask(command, probe)));
    // Last, because a connection that subscribes takes no other commands.
    await ask("subscribe", () => client.subscribe(CHANNEL));
    const denied = errors.filter(([, error]) => replyCode(error) === "NOPERM");
    const other = errors.find(([, error]) => replyCode(error) !== "NOPERM");
    const reach =
      other === undefined
        ? finding("redis.reach", "ok", "it answers")
        : finding("redis.reach", "fail", `redis.url: ${wordsOf(other[1])}`);
    if (denied.length === 0) return other === undefined ? [reach, finding("redis.acl", "ok", "all rights")] : [reach];
    const commands = denied.map(([command]) => command).join(", ");
    return [reach, finding("redis.acl", "fail", `redis.url: ${commands}: ${WORDS["NOPERM"]}`)];
  } finally {
    clearTimeout(timer);
    client.disconnect();
  }
}

/** Without the error's own text: only its code. The client's errors have theirs in the text, without a secret. */
function wordsOf(error: unknown): string {
  const text = error instanceof Error ? error.message : "";
  const code = replyCode(error) ?? (error as { code?: string }).code ?? /\b[A-Z]{4,24}\b/.exec(text)?.[0] ?? "";
  const words = WORDS[code] ?? (/timeout/i.test(text) ? WORDS["ETIMEDOUT"] : undefined);
  return words ?? `Redis cannot be used (${code || "error"})`;
}
