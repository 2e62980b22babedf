import { isIP } from "node:net";
import { StartError } from "../domain/start-error.ts";

/** The address of Redis: a server, some nodes of a cluster, or the sentinels that watch a primary. */
export interface RedisAddress {
  readonly kind: "server" | "cluster" | "sentinel";
  readonly tls: boolean;
  readonly hosts: readonly { readonly host: string; readonly port: number }[];
  readonly username?: string;
  readonly password?: string;
  /** The number of the database. A cluster has only 0. */
  readonly db: number;
  /** The host names of the URL. A node's certificate may be for one of them instead of the node's own name. */
  readonly names: readonly string[];
  /** The name under which the sentinels watch the primary. */
  readonly master: string;
}

const FORM =
  /^(rediss?)(?:-(cluster|sentinel))?:\/\/(?:([^@/]*)@)?([^@/?#]+)(?:\/([^?#]*))?(?:\?server_name=([A-Za-z0-9.,_-]+))?$/;
const HOST = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/;

/**
 * Reads `redis://[user:password@]host:port[/db]`, `redis-cluster://…host:port,host:port`, or
 * `redis-sentinel://…host:port,host:port/master[/db]`; with `rediss` instead, by TLS, where `?server_name=name,name` tells
 * further names that certificates are for. Throws StartError, whose text has no part of the URL.
 */
export function parseRedisUrl(url: string): RedisAddress {
  const [, scheme, kind = "server", user, hosts, path = "", serverNames] = FORM.exec(url) ?? [];
  if (scheme === undefined || hosts === undefined) {
    throw invalid("redis.url must be redis://, redis-cluster:// or redis-sentinel:// and host:port");
  }
  const places = hosts.split(",").map((text) => hostOf(text, kind === "sentinel" ? 26379 : 6379));
  if (kind === "server" && places.length > 1) throw invalid("redis.url: redis:// takes one host");
  const parts = path.split("/");
  const master = kind === "sentinel" ? decode(parts.shift() ?? "") : "";
  if (kind === "sentinel" && master === "") {
    throw invalid("redis.url: redis-sentinel:// needs the name of the primary after the hosts");
  }
  const [db = "", ...rest] = parts;
  if (rest.length > 0 || !/^\d{0,4}$/.test(db)) throw invalid("redis.url: what follows the hosts is wrong");
  if (kind === "cluster" && Number(db) !== 0) throw invalid("redis.url: a cluster has only database 0");
  if (serverNames !== undefined && scheme !== "rediss") throw invalid("redis.url: server_name needs rediss");
  return {
    kind: kind as RedisAddress["kind"],
    tls: scheme === "rediss",
    hosts: places,
    ...credentials(user),
    db: Number(db),
    names: [...places.map(({ host }) => host), ...(serverNames?.split(",") ?? [])].filter((name) => isIP(name) === 0),
    master,
  };
}

function hostOf(text: string, standardPort: number): { host: string; port: number } {
  const [, v6, name, port] = HOST.exec(text) ?? [];
  const host = v6 ?? name;
  const number = port === undefined ? standardPort : Number(port);
  if (host === undefined || number < 1 || number > 65_535) throw invalid("redis.url: a host:port is wrong");
  return { host, port: number };
}

function credentials(user: string | undefined): Pick<RedisAddress, "username" | "password"> {
  if (user === undefined || user === "") return {};
  const colon = user.indexOf(":");
  const username = decode(colon === -1 ? user : user.slice(0, colon));
  const password = colon === -1 ? "" : decode(user.slice(colon + 1));
  return { ...(username !== "" && { username }), ...(password !== "" && { password }) };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid("redis.url: a percent sign is not followed by two hex digits");
  }
}

function invalid(problem: string): StartError {
  return new StartError("redis_url_invalid", problem);
}
