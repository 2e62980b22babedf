import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse as parseYaml } from "yaml";
import { freshKeyring } from "../../src/domain/keyring.ts";
import { freshSigning } from "../../src/domain/signing-keys.ts";
import { folder, Program, ROOT } from "../support/program.ts";
import { CHART, fetched, Helm, type Manifest, type Values } from "./helm.ts";
import { fromCrds, fromOpenApi, LOCATION } from "./schemas.ts";
import { WRONG } from "./wrong-values.ts";

const run = promisify(execFile);
const read = (path: string) => readFileSync(join(CHART, path), "utf8");
const place = folder();
afterAll(() => place.remove());

const everything = {
  podMonitor: { enabled: true, labels: { release: "prometheus" } },
  prometheusRule: { enabled: true, labels: { release: "prometheus" } },
  dashboards: { enabled: true },
};
const SHAPES: Readonly<Record<string, Values>> = {
  central: { shape: "central", existingSecret: "sallyport" },
  "central, all of it": {
    ...everything,
    shape: "central",
    existingSecret: "sallyport",
    existingOwnerSecret: "sallyport-owner",
    image: { repository: "registry.example:5000/team/sallyport", digest: `sha256:${"0".repeat(64)}` },
    admin: { exposure: "cluster", tlsSecret: "admin-tls" },
    data: { exposure: "cluster", tlsSecret: "data-tls", allowedSans: ["spiffe://team/app"] },
    config: {
      redis: { url_file: "/run/secrets/sallyport/redis-url" },
      database: { direct_url_file: "/run/secrets/sallyport/direct-database-url" },
      journal: { url_file: "/run/secrets/sallyport/journal-url" },
      signing_file: "/run/secrets/sallyport/signing",
      revocation: { lease: "2s" },
      callers: { mtls: [{ san: "deployer.example", tenant: "default", permissions: ["sallyport.tokens.create"] }] },
    },
  },
  node: { ...everything, shape: "node", existingSecret: "sallyport" },
  "node, by a Service": {
    shape: "node",
    existingSecret: "sallyport",
    data: { exposure: "cluster", tlsSecret: "data-tls", allowedSans: ["app.example"] },
  },
  sidecar: { ...everything, shape: "sidecar", existingSecret: "sallyport" },
  "sidecar, on loopback": { shape: "sidecar", existingSecret: "sallyport", data: { exposure: "loopback" } },
};
const POD = `apiVersion: apps/v1
kind: Deployment
metadata: { name: app }
spec:
  selector: { matchLabels: { app: app } }
  template:
    metadata:
      labels:
        app: app
        {{- include "sallyport.sidecar.labels" .Subcharts.sallyport | nindent 8 }}
    spec:
      securityContext: { fsGroup: 10001 }
      initContainers: {{- include "sallyport.sidecar" .Subcharts.sallyport | nindent 8 }}
      containers:
        - { name: app, image: "app:1", volumeMounts: [{ name: sallyport-socket, mountPath: /run/sallyport }] }
      volumes: {{- include "sallyport.sidecar.volumes" .Subcharts.sallyport | nindent 8 }}
`;

test("the chart is of the program's version, and carries its rules and dashboards", () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  const chart = parseYaml(read("Chart.yaml")) as { version: string; appVersion: string };
  expect(chart).toMatchObject({ version, appVersion: version });
  const monitoring = join(ROOT, "deploy/monitoring");
  const made = readdirSync(monitoring).filter((name) => /\.json$|rules\.yaml$/.test(name));
  expect(readdirSync(join(CHART, "files")).sort()).toEqual(made.sort());
  for (const name of made) expect(read(`files/${name}`)).toBe(readFileSync(join(monitoring, name), "utf8"));
});

test("each value of values.yaml has a wrong one below", () => {
  const paths = leaves(parseYaml(read("values.yaml")) as Values).filter(
    (path) => !/\.labels\.|requests\.|limits\./.test(path),
  );
  const tried = WRONG.map(({ key }) => key);
  expect(paths.filter((path) => !tried.some((key) => key === path || path.startsWith(`${key}.`)))).toEqual([]);
});

const helm = await fetched("helm");
describe.skipIf(helm.missing !== "")(`Helm${helm.missing && ` (skipped: ${helm.missing})`}`, () => {
  const chart = new Helm(helm.path, place.path);

  test.for(WRONG)("refused, with key and reason: $refusal", async ({ values, refusal }) => {
    const good: Values = { shape: "central", existingSecret: "sallyport" };
    await expect(chart.template({ ...good, ...values })).rejects.toThrow(refusal);
  });

  test.for(Object.entries(SHAPES))("%s: lint finds nothing", async ([, values]) => {
    expect((await chart.lint(values)).stdout).toContain("1 chart(s) linted, 0 chart(s) failed");
  });

  test.for(Object.entries(SHAPES))("%s: check-config accepts its configuration", async ([, values]) => {
    const config = (await chart.objects(values)).find(({ data }) => data?.["sallyport.yaml"])!.data["sallyport.yaml"]!;
    expect(config).not.toMatch(/postgres:|redis:\/\//);
    const secrets = await secretFiles();
    const file = join(secrets, "sallyport.yaml");
    writeFileSync(file, config.replaceAll(/\/run\/secrets\/(sallyport|data-tls|admin-tls)/g, secrets));
    const program = new Program(["check-config", "--config", file]);
    expect([await program.exited, program.err]).toEqual([0, ""]);
    const shown = parseYaml(program.out) as { mode: string; listeners: { data: { bind: string } } };
    expect(shown.mode).toBe(values["shape"] === "central" ? "full" : "validate");
  });

  test("each file of existingSecret that the configuration names is mounted", async () => {
    const objects = await chart.objects(SHAPES["central, all of it"]!);
    const config = objects.find(({ kind }) => kind === "ConfigMap")!.data["sallyport.yaml"]!;
    const { volumes } = objects.find(({ kind }) => kind === "Deployment")!.spec.template.spec;
    const { sources } = volumes.find(({ name }: { name: string }) => name === "sallyport-secrets").projected;
    const mounted = sources.flatMap(({ secret }: Source) => secret.items.map(({ path }) => path));
    const named = [...config.matchAll(/\/run\/secrets\/sallyport\/([\w-]+)/g)].map(([, key]) => key);
    expect(named).toHaveLength(6);
    expect(mounted.sort()).toEqual(named.sort());
  });

  test("the login of the data plane never migrates beside an owner's, and the hook has the owner's", async () => {
    const objects = await chart.objects(SHAPES["central, all of it"]!);
    const { spec } = objects.find(({ kind }) => kind === "Job")!.spec.template;
    expect(spec.containers[0].args).toEqual(["migrate"]);
    const [owner, keyring] = spec.volumes;
    expect(owner.secret).toMatchObject({ secretName: "sallyport-owner", items: [{ key: "database-url" }] });
    expect(keyring.secret).toMatchObject({ secretName: "sallyport", items: [{ key: "keyring" }] });
  });

  test("every container is confined; the one of root has only CHOWN", async () => {
    for (const values of Object.values(SHAPES)) {
      for (const { name, securityContext: context } of containers(await chart.objects(values))) {
        expect(context).toMatchObject({ readOnlyRootFilesystem: true, allowPrivilegeEscalation: false });
        if (name === "folder") expect(context.capabilities).toEqual({ drop: ["ALL"], add: ["CHOWN"] });
        else expect(context).toMatchObject({ runAsNonRoot: true, runAsUser: 10001, capabilities: { drop: ["ALL"] } });
      }
    }
  });

  test("no port is reachable that the values do not expose", async () => {
    const ports = async (values: Values) => {
      const objects = await chart.objects(values);
      const policy = objects.find(({ kind }) => kind === "NetworkPolicy")!.spec;
      const service = objects.find(({ kind }) => kind === "Service")?.spec.ports ?? [];
      return {
        policy: policy.ingress.flatMap((rule: Rule) => rule.ports.map(({ port }) => port)),
        service: service.map(({ port }: { port: number }) => port),
      };
    };
    expect(await ports(SHAPES["central"]!)).toEqual({ policy: [7402], service: [] });
    expect(await ports(SHAPES["central, all of it"]!)).toEqual({ policy: [7402, 7400, 7401], service: [7400, 7401] });
    expect(await ports(SHAPES["node"]!)).toEqual({ policy: [7402], service: [] });
    expect(await ports(SHAPES["node, by a Service"]!)).toEqual({ policy: [7402, 7400], service: [7400] });
  });

  test("two releases in one namespace share no name, no selector and no folder", async () => {
    const long = "a".repeat(53);
    for (const [one, two] of [
      ["red", "blue"],
      [`${long.slice(1)}b`, `${long.slice(1)}c`],
    ] as const) {
      for (const name of ["central, all of it", "node"]) {
        const [first, second] = await Promise.all(
          [one, two].map((release) => chart.objects(SHAPES[name]!, { release })),
        );
        const names = (objects: readonly Manifest[]) => objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`);
        expect(names(first!).filter((known) => names(second!).includes(known))).toEqual([]);
        expect(new Set(names(first!)).size).toBe(first!.length);
        for (const { kind, metadata } of first!)
          if (/Job|Service/.test(kind)) expect(metadata.name.length).toBeLessThan(64);
        const own = (objects: readonly Manifest[]) =>
          JSON.stringify(objects.map(({ spec }) => [spec?.selector, spec?.podSelector, hostPath(spec)]));
        expect(own(first!)).not.toBe(own(second!));
      }
    }
  });

  test("each pod has the labels by which the PodMonitor finds it, and the port", async () => {
    for (const values of [{ ...SHAPES["central, all of it"] }, SHAPES["node"]!]) {
      const objects = await chart.objects(values);
      const pod = objects.find(({ kind }) => /Deployment|DaemonSet/.test(kind))!.spec.template;
      const monitor = objects.find(({ kind }) => kind === "PodMonitor")!.spec;
      expect(pod.metadata.labels).toMatchObject(monitor.selector.matchLabels);
      expect(pod.spec.containers[0].ports[0].name).toBe(monitor.podMetricsEndpoints[0].port);
      expect(monitor.podMetricsEndpoints[0].relabelings[0]).toMatchObject({
        targetLabel: "job",
        replacement: "sallyport",
      });
    }
  });

  test("the notes name the Secret, the folder and the address", async () => {
    expect(await chart.notes(SHAPES["central"]!)).toContain("deploy/one-sallyport -- node src/main.ts bootstrap");
    expect(await chart.notes(SHAPES["node"]!)).toContain("/run/sallyport/team/one-sallyport");
    expect(await chart.notes(SHAPES["node, by a Service"]!)).toContain("https://one-sallyport.team.svc:7400");
    expect(await chart.notes(SHAPES["sidecar"]!)).toContain("unix:/run/sallyport/data.sock");
  });

  test("somebody's chart gets a sidecar that is ready before the service starts", async () => {
    const path = await chart.parentChart(POD);
    const values = { sallyport: SHAPES["sidecar"]! };
    const objects = await chart.objects(values, { chart: path });
    const { spec, metadata } = objects.find(({ kind }) => kind === "Deployment")!.spec.template;
    expect(spec.initContainers).toHaveLength(1);
    expect(spec.initContainers[0]).toMatchObject({ restartPolicy: "Always", image: "sallyport:0.1.0" });
    const mounted = spec.initContainers[0].volumeMounts.map(({ name }: { name: string }) => name);
    expect(spec.volumes.map(({ name }: { name: string }) => name)).toEqual(expect.arrayContaining(mounted));
    const monitor = objects.find(({ kind }) => kind === "PodMonitor")!.spec;
    expect(metadata.labels).toMatchObject(monitor.selector.matchLabels);
    const wrong = { sallyport: { shape: "central", existingSecret: "sallyport" } };
    await expect(chart.template(wrong, { chart: path })).rejects.toThrow("sallyport.sidecar needs shape sidecar");
  });

  for (const cluster of ["kubernetes-oldest", "kubernetes-newest"] as const) validates(cluster, chart);
});

function validates(cluster: "kubernetes-oldest" | "kubernetes-newest", chart: Helm): void {
  let missing = "";
  describe(`kubeconform, ${cluster}`, () => {
    let check: (manifests: string) => Promise<unknown>;
    beforeAll(async () => {
      const needed = ["kubeconform", cluster, "prometheus-operator"] as const;
      const [program, api, crds] = await Promise.all(needed.map(fetched));
      missing = program!.missing || api!.missing || crds!.missing;
      if (missing !== "") return;
      const schemas = join(place.path, cluster);
      expect(fromOpenApi(api!.path, schemas)).toBeGreaterThan(100);
      expect(fromCrds(crds!.path, schemas)).toBeGreaterThan(5);
      check = (manifests) => {
        const child = run(program!.path, ["-strict", "-summary", "-schema-location", join(schemas, LOCATION), "-"]);
        child.child.stdin!.end(manifests);
        return child.catch((error: { stdout: string }) => Promise.reject(new Error(error.stdout)));
      };
    }, 600_000);

    test.for(Object.entries(SHAPES))("%s: every object is valid", async ([, values], { skip }) => {
      if (missing !== "") skip(missing);
      expect(await check(await chart.template(values))).toMatchObject({
        stdout: expect.stringMatching(/Valid: [1-9]\d*, Invalid: 0, Errors: 0, Skipped: 0/),
      });
    });

    test("a service with the sidecar is valid", async ({ skip }) => {
      if (missing !== "") skip(missing);
      const path = await chart.parentChart(POD);
      await check(await chart.template({ sallyport: SHAPES["sidecar"]! }, { chart: path }));
    });

    test("a wrong key is found, in Kubernetes and in a CRD", async ({ skip }) => {
      if (missing !== "") skip(missing);
      const text = await chart.template(SHAPES["central, all of it"]!);
      for (const [right, wrong] of [
        ["replicas:", "replicaz:"],
        ["podMetricsEndpoints:", "podMetricEndpoints:"],
        ["livenessProbe:", "liveProbe:"],
      ] as const) {
        expect(text).toContain(right);
        await expect(check(text.replace(right, wrong))).rejects.toThrow(wrong.slice(0, -1));
      }
    });
  });
}

interface Rule {
  readonly ports: readonly { readonly port: number }[];
}

interface Source {
  readonly secret: { readonly items: readonly { readonly path: string }[] };
}

/** The files of the Secrets, in a folder of their own. */
async function secretFiles(): Promise<string> {
  const path = mkdtempSync(join(place.path, "secrets-"));
  const write = (name: string, text: string) => writeFileSync(join(path, name), text, { mode: 0o600 });
  write("database-url", "postgres://login:hunter2@db.example:5432/sallyport");
  write("direct-database-url", "postgres://login:hunter2@direct.example:5432/sallyport");
  write("journal-url", "postgres://login:hunter2@journal.example:5432/journal");
  write("redis-url", "redis://redis.example:6379");
  write("signing", JSON.stringify(freshSigning("https://tokens.example")));
  write("keyring", JSON.stringify(freshKeyring()));
  const request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
  const out = ["-subj", "/CN=sallyport", "-keyout", join(path, "tls.key"), "-out", join(path, "tls.crt")];
  await run("openssl", [...request, ...out]);
  write("ca.crt", readFileSync(join(path, "tls.crt"), "utf8"));
  return path;
}

function leaves(tree: Values, path = ""): string[] {
  return Object.entries(tree).flatMap(([key, value]) => {
    const map = typeof value === "object" && value !== null && !Array.isArray(value) && Object.keys(value).length > 0;
    return map ? leaves(value as Values, `${path}${key}.`) : [`${path}${key}`];
  });
}

// biome-ignore lint/suspicious/noExplicitAny: parts of a pod
function containers(objects: readonly Manifest[]): any[] {
  const pods = objects.flatMap(({ spec }) => (spec?.template === undefined ? [] : [spec.template.spec]));
  return pods.flatMap((pod) => [...(pod.initContainers ?? []), ...pod.containers]);
}

// biome-ignore lint/suspicious/noExplicitAny: parts of a pod
function hostPath(spec: any): unknown {
  return spec?.template?.spec.volumes.find((volume: { hostPath?: unknown }) => volume.hostPath)?.hostPath;
}
