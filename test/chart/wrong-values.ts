import type { Values } from "./helm.ts";

/** What an operator can get wrong: the values, the release that they are wrong in, and words of the refusal. */
export interface Wrong {
  /** The path of the wrong value. */
  readonly key: string;
  readonly values: Values;
  readonly refusal: string;
}

const wrong = (key: string, values: Values, refusal: string = key): Wrong => ({ key, values, refusal });
/** Helm writes the path of a value as a JSON pointer. */
const shaped = (key: string, values: Values) => wrong(key, values, `at '/${key.replaceAll(".", "/")}`);
const config = (key: string, value: Values, reason: string) =>
  wrong(`config.${key}`, { config: value }, `config.${key}: ${reason}`);
const digest = `sha256:${"a".repeat(64)}`;
const exposed = { exposure: "cluster", tlsSecret: "tls", allowedSans: ["app.example"] };

/** Each is laid over values that are good. */
export const WRONG: readonly Wrong[] = [
  wrong("replicaz", { replicaz: 2 }, "additional properties 'replicaz' not allowed"),
  shaped("shape", { shape: "sidekick" }),
  shaped("image.repository", { image: { repository: "" } }),
  shaped("image.repository", { image: { repository: "registry.example/Sallyport" } }),
  shaped("image.tag", { image: { tag: "1.0 beta" } }),
  wrong("image.tag", { image: { tag: "latest" } }, "image.tag: latest changes"),
  shaped("image.digest", { image: { digest: digest.slice(0, -1) } }),
  shaped("existingSecret", { existingSecret: "" }),
  shaped("existingSecret", { existingSecret: "My_Secret" }),
  shaped("existingOwnerSecret", { existingOwnerSecret: "My_Secret" }),
  wrong("existingOwnerSecret", { shape: "node", existingOwnerSecret: "owner" }, "existingOwnerSecret: shape node"),
  shaped("replicas", { replicas: 0 }),
  shaped("replicas", { replicas: "two" }),
  shaped("admin.exposure", { admin: { exposure: "internet" } }),
  wrong(
    "admin.exposure",
    { shape: "sidecar", admin: { exposure: "cluster", tlsSecret: "tls" } },
    "admin.exposure: shape",
  ),
  shaped("admin.tlsSecret", { admin: { exposure: "cluster" } }),
  wrong("admin", { admin: null }, "missing property 'admin'"),
  shaped("data.exposure", { data: { exposure: "internet" } }),
  wrong("data.exposure", { data: { exposure: "unix" } }, "data.exposure: shape central cannot have unix"),
  wrong("data.exposure", { shape: "node", data: { exposure: "loopback" } }, "data.exposure: shape node"),
  wrong("data.exposure", { shape: "sidecar", data: exposed }, "data.exposure: shape sidecar cannot have cluster"),
  wrong("data.tlsSecret", { data: { ...exposed, tlsSecret: "" } }, "data.tlsSecret: is required"),
  wrong("data.tlsSecret", { data: { tlsSecret: "tls" } }, "data.tlsSecret, data.allowedSans: have no effect"),
  wrong("data.allowedSans", { data: { ...exposed, allowedSans: [] } }, "data.allowedSans: is required"),
  shaped("data.allowedSans", { data: { ...exposed, allowedSans: [""] } }),
  shaped("networkPolicy.enabled", { networkPolicy: { enabled: "maybe" } }),
  shaped("networkPolicy.from", { networkPolicy: { from: [] } }),
  shaped("networkPolicy.from", { networkPolicy: { from: [{}] } }),
  wrong("networkPolicy.from", { networkPolicy: { from: null } }, "missing property 'from'"),
  shaped("podMonitor.enabled", { podMonitor: { enabled: "maybe" } }),
  shaped("podMonitor.labels", { podMonitor: { labels: { release: 1 } } }),
  shaped("prometheusRule.enabled", { prometheusRule: { enabled: 1 } }),
  shaped("prometheusRule.labels", { prometheusRule: { labels: [] } }),
  shaped("dashboards.enabled", { dashboards: { enabled: "true" } }),
  shaped("dashboards.labels", { dashboards: { labels: { grafana_dashboard: 1 } } }),
  shaped("resources.requests", { resources: { requests: { cpu: [] } } }),
  shaped("resources.limits", { resources: { limits: "384Mi" } }),
  wrong("resources", { resources: { memory: "1Gi" } }, "additional properties 'memory' not allowed"),
  shaped("config", { config: "mode: full" }),
  config("mode", { mode: "full" }, "the chart sets it"),
  config("listeners", { listeners: { ops: { bind: "0.0.0.0:1" } } }, "the chart sets them"),
  config("embedded", { embedded: { data_dir: "/data" } }, "the embedded database"),
  config("break_glass", { break_glass: { secret_file: "/x" } }, "its secret"),
  config("keyring", { keyring: { current: "1" } }, "it would stand in a ConfigMap"),
  config("keyring_file", { keyring_file: "/x" }, "the chart sets it"),
  config(
    "signing",
    { signing: { issuer: "https://x.example", current: "a", keys: {} } },
    "it would stand in a ConfigMap",
  ),
  config("database.url", { database: { url: "postgres://db/x" } }, "it would stand in a ConfigMap"),
  config("database.url_file", { database: { url_file: "/x" } }, "the chart sets it"),
  config("database.direct_url", { database: { direct_url: "postgres://db/x" } }, "it would stand in a ConfigMap"),
  config("database.allow_fsync_off", { database: { allow_fsync_off: true } }, "a server with fsync=off"),
  config("journal.url", { journal: { url: "postgres://db/x" } }, "it would stand in a ConfigMap"),
  config("redis.url", { redis: { url: "redis://r" } }, "it would stand in a ConfigMap"),
  config("database", { database: [] }, "must be a map"),
  config("journal", { journal: "postgres://db/x" }, "must be a map"),
  config("redis", { redis: "redis://r" }, "must be a map"),
  config("revocation", { revocation: "1s" }, "must be a map"),
  config("callers", { callers: [] }, "must be a map"),
  wrong("config.workers", { shape: "node", config: { workers: 2 } }, "config.workers: shape node"),
  config("revocation.lease", { revocation: { lease: "980ms" } }, "980ms is too short for a poll each 400ms"),
  config("revocation.lease", { revocation: { lease: 1500 } }, "must be a duration"),
  config("revocation.lease", { revocation: { poll: "900ms" } }, "1500ms is too short for a poll each 900ms"),
  config("revocation.poll", { revocation: { poll: "0.4s" } }, "must be a duration"),
];
