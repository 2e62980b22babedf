import { execFile } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { parseAllDocuments, stringify } from "yaml";
import { fetchProgram, type ProgramName } from "../../scripts/fetch.ts";
import { ROOT } from "../support/program.ts";

const run = promisify(execFile);
export const CHART = join(ROOT, "deploy/helm/sallyport");

/** A path, or the reason why it cannot be fetched. */
export interface Fetched {
  readonly path: string;
  readonly missing: string;
}

export function fetched(name: ProgramName): Promise<Fetched> {
  return fetchProgram(name).then(
    (path) => ({ path, missing: "" }),
    ({ message }: Error) => ({ path: "", missing: message }),
  );
}

/** An object of Kubernetes, as far as the tests look into it. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly data: Readonly<Record<string, string>>;
  // biome-ignore lint/suspicious/noExplicitAny: each kind has its own
  readonly spec: any;
}

export type Values = Record<string, unknown>;

export class Helm {
  readonly #program: string;
  readonly #folder: string;
  #count = 0;

  constructor(program: string, folder: string) {
    this.#program = program;
    this.#folder = folder;
  }

  /** Renders a chart. Rejects with the message of Helm if it refuses. */
  async template(values: Values, { release = "one", chart = CHART } = {}): Promise<string> {
    const file = join(this.#folder, `values-${this.#count++}.yaml`);
    writeFileSync(file, stringify(values));
    const args = ["template", release, chart, "--namespace", "team", "--values", file];
    try {
      return (await this.#run(args)).stdout;
    } catch (error) {
      throw new Error((error as { stderr: string }).stderr);
    }
  }

  async objects(values: Values, options?: { release?: string; chart?: string }): Promise<Manifest[]> {
    return parse(await this.template(values, options));
  }

  /** The text that an installation prints. Nothing is installed. */
  async notes(values: Values): Promise<string> {
    const file = join(this.#folder, `values-${this.#count++}.yaml`);
    writeFileSync(file, stringify(values));
    const args = ["install", "one", CHART, "--namespace", "team", "--values", file, "--dry-run=client"];
    return (await this.#run(args)).stdout.split("NOTES:\n")[1]!;
  }

  lint(values: Values): Promise<{ stdout: string }> {
    const file = join(this.#folder, `values-${this.#count++}.yaml`);
    writeFileSync(file, stringify(values));
    return this.#run(["lint", CHART, "--strict", "--values", file]);
  }

  /** A chart of somebody's service that adds the sidecar to its pods, as templates/_sidecar.tpl says. */
  async parentChart(podTemplate: string): Promise<string> {
    const chart = join(this.#folder, "service");
    mkdirSync(join(chart, "templates"), { recursive: true });
    const dependencies = [{ name: "sallyport", version: "0.1.0", repository: `file://${CHART}` }];
    writeFileSync(
      join(chart, "Chart.yaml"),
      stringify({ apiVersion: "v2", name: "service", version: "1.0.0", dependencies }),
    );
    writeFileSync(join(chart, "templates/deployment.yaml"), podTemplate);
    await this.#run(["dependency", "build", chart]);
    return chart;
  }

  #run(args: readonly string[]): Promise<{ stdout: string }> {
    // No cluster and no settings of this machine's user take part.
    const env = { PATH: process.env["PATH"], HOME: this.#folder, KUBECONFIG: join(this.#folder, "no-cluster") };
    return run(this.#program, args, { env, maxBuffer: 1 << 26 });
  }
}

export function parse(text: string): Manifest[] {
  return parseAllDocuments(text)
    .map((document) => {
      if (document.errors.length > 0) throw document.errors[0];
      return document.toJS() as Manifest | null;
    })
    .filter((manifest) => manifest !== null);
}
