import { getuid } from "node:process";
import { type Change, deployed, type Edge, freePort, startEdge } from "./edge.ts";
import type { Scene } from "./scene.ts";

export interface Options {
  /** Of the file that is deployed, before the addresses are put in. */
  readonly changes?: readonly Change[];
  /** Another data listener than the scene's. */
  readonly dataPort?: number;
}

/** A proxy with its file of `deploy/proxies`: how it is started, and where it answers in a way of its own. */
export interface Suite {
  /** By its name in `scripts/fetch.ts`. */
  readonly program: string;
  /** Asks over HTTP, with a family of headers of its own. */
  readonly http: boolean;
  /** Makes it ask for another policy. */
  readonly policy: (name: string) => Change;
  readonly hung: number;
  readonly dead: number;
  /** How long after its death an authorizer is still asked. */
  readonly noticesDeathMs: number;
  /** Names of the forged set that pass, as its page says. */
  readonly passes: readonly string[];
  /** Refuses header names with an underscore itself. */
  readonly refusesUnderscores: boolean;
  start(program: string, scene: Scene, options?: Options): Promise<Edge>;
}

const plain = { http: true, hung: 503, dead: 503, noticesDeathMs: 0, passes: [] } as const;

function envoy(file: "envoy-grpc.yaml" | "envoy-http.yaml"): Pick<Suite, "start"> & Partial<Suite> {
  return {
    async start(program, scene, { changes = [], dataPort = scene.dataPort } = {}) {
      const [port, admin] = [await freePort(), await freePort()];
      const text = deployed(file, [
        ...changes,
        ["port_value: 8000", `port_value: ${port}`],
        ["port_value: 9901", `port_value: ${admin}`],
        ["port_value: 7400", `port_value: ${dataPort}`],
        ["port_value: 8080", `port_value: ${scene.upstream.port}`],
        ["port_value: 8081", `port_value: ${scene.upstream.grpcPort}`],
      ]);
      const flags = [
        "--concurrency",
        "1",
        "--log-level",
        "warning",
        "--disable-hot-restart",
        "--file-flush-interval-msec",
        "10",
      ];
      const edge = await startEdge({
        program,
        argv: ["-c", "envoy.yaml", ...flags],
        files: { "envoy.yaml": text },
        port,
      });
      return { ...edge, adminPort: admin };
    },
  };
}

export const envoyGrpc: Suite = {
  ...plain,
  program: "envoy",
  http: false,
  policy: (name) => ["policy: default", `policy: ${name}`],
  refusesUnderscores: true,
  ...envoy("envoy-grpc.yaml"),
};

export const envoyHttp: Suite = {
  ...plain,
  program: "envoy",
  policy: (name) => ["/v1/check/envoy/default", `/v1/check/envoy/${name}`],
  refusesUnderscores: true,
  ...envoy("envoy-http.yaml"),
};

export const nginx: Suite = {
  ...plain,
  program: "nginx",
  policy: (name) => ["/v1/check/original/default", `/v1/check/original/${name}`],
  // Dropped by nginx unless it is told otherwise.
  refusesUnderscores: false,
  passes: ["x-auth-other"],
  async start(program, scene, { changes = [], dataPort = scene.dataPort } = {}) {
    const port = await freePort();
    const text = deployed("nginx.conf", [
      ...changes,
      ["127.0.0.1:8000", `127.0.0.1:${port}`],
      ["127.0.0.1:7400", `127.0.0.1:${dataPort}`],
      ["127.0.0.1:8080", `127.0.0.1:${scene.upstream.port}`],
    ]);
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${name};`);
    const around = [
      "daemon off; pid nginx.pid; error_log stderr warn; worker_processes 1;",
      getuid?.() === 0 ? "user root;" : "",
      `events {} http { access_log off; ${temporary.join(" ")} include sallyport.conf; }`,
    ].join("\n");
    const argv = ["-p", ".", "-e", "stderr", "-c", "nginx.conf"];
    return startEdge({ program, argv, files: { "nginx.conf": around, "sallyport.conf": text }, port });
  },
};

export const caddy: Suite = {
  ...plain,
  program: "caddy",
  policy: (name) => ["/v1/check/forwarded/default", `/v1/check/forwarded/${name}`],
  hung: 504,
  dead: 502,
  refusesUnderscores: false,
  async start(program, scene, { changes = [], dataPort = scene.dataPort } = {}) {
    const port = await freePort();
    const text = deployed("Caddyfile", [
      ...changes,
      ["http://:8000", `http://:${port}`],
      ["127.0.0.1:7400", `127.0.0.1:${dataPort}`],
      ["127.0.0.1:8080", `127.0.0.1:${scene.upstream.port}`],
    ]);
    const argv = ["run", "--config", "Caddyfile", "--adapter", "caddyfile"];
    return startEdge({ program, argv, files: { Caddyfile: text }, port });
  },
};

export const haproxy: Suite = {
  ...plain,
  program: "haproxy",
  policy: (name) => ["/v1/check/forwarded/default", `/v1/check/forwarded/${name}`],
  noticesDeathMs: 1_000,
  refusesUnderscores: false,
  async start(program, scene, { changes = [], dataPort = scene.dataPort } = {}) {
    const port = await freePort();
    const text = deployed("haproxy.cfg", [
      ...changes,
      ["127.0.0.1:8000", `127.0.0.1:${port}`],
      ["127.0.0.1:7400", `127.0.0.1:${dataPort}`],
      ["127.0.0.1:8080", `127.0.0.1:${scene.upstream.port}`],
    ]);
    const files = { "haproxy.cfg": text, "authz.lua": deployed("authz.lua", []) };
    return startEdge({ program, argv: ["-db", "-f", "haproxy.cfg"], files, port });
  },
};
