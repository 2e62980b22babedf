import { median, type Sample } from "./measure.ts";
import { CHECK, ENVOY, type Row, type SubjectName, VALIDATE } from "./rows.ts";

/** A required ratio: Sallyport's figure over the best figure of some peers, in the same round. */
export interface Budget {
  readonly table: string;
  readonly title: string;
  readonly peers: readonly SubjectName[];
  /** The figure, if it is not CPU per call. A latency is the part above that of `floor`. */
  readonly what?: "p50" | "p99";
  readonly own?: SubjectName;
  readonly floor?: SubjectName;
  readonly most: number;
  /** The bound that must hold even on a busy machine. The short form fails beyond it. */
  readonly broken: number;
}

const GRPC_GO: readonly SubjectName[] = ["grpc-go, same work, GOGC=100", "grpc-go, same work, GOGC=400"];
const GO_AUTHZ: readonly SubjectName[] = ["Go ext_authz, GOGC=100", "Go ext_authz, GOGC=400"];

const GO_BEHIND: readonly SubjectName[] = [
  "Go ext_authz, GOGC=100, behind Envoy",
  "Go ext_authz, GOGC=400, behind Envoy",
];

export const BUDGETS: readonly Budget[] = [
  { table: VALIDATE, title: "4 × 32", peers: ["node:http2, same work"], most: 0.15, broken: 0.4 },
  { table: VALIDATE, title: "4 × 32", peers: GRPC_GO, most: 0.25, broken: 0.75 },
  { table: VALIDATE, title: "64 × 1", peers: ["node:http2, same work"], most: 0.2, broken: 0.7 },
  { table: VALIDATE, title: "64 × 1", peers: GRPC_GO, most: 0.5, broken: 1.2 },
  { table: CHECK, title: "4 × 32", peers: GO_AUTHZ, most: 0.2, broken: 0.8 },
  ...(["64 × 1", "1 × 1"] as const).flatMap((title): Budget[] => {
    const row = { table: ENVOY, title, own: "sallyport behind Envoy", peers: GO_BEHIND, most: 1, broken: 2 } as const;
    return [row, { ...row, what: "p50", floor: "Envoy alone" }, { ...row, what: "p99", floor: "Envoy alone" }];
  }),
];

/** The outcome of a row. */
export interface Outcome {
  readonly row: Row;
  /** One per round; undefined if the round failed. */
  readonly samples: readonly (Sample | undefined)[];
  /** The reason why there are no samples. */
  readonly missing?: string;
  /** The messages of the failed rounds. */
  readonly failures: readonly string[];
}

export interface Judgement {
  readonly budget: Budget;
  readonly ratio?: number;
  /** The smallest and the largest of the rounds. */
  readonly spread?: readonly [number, number];
  readonly missing?: string;
  readonly met: boolean;
}

/** The ratio of each round, then the median, for the budgets whose rows ran. */
export function judge(outcomes: readonly Outcome[], bound: "most" | "broken"): Judgement[] {
  const rows = outcomes.map(({ row }) => `${row.table} ${row.title}`);
  return BUDGETS.filter(({ table, title }) => rows.includes(`${table} ${title}`)).map((budget) => {
    const of = (subject: SubjectName) =>
      outcomes.find(({ row }) => row.table === budget.table && row.title === budget.title && row.subject === subject);
    const own = of(budget.own ?? "sallyport");
    const peers = budget.peers.map(of).filter((outcome) => outcome !== undefined);
    const floor = budget.floor && of(budget.floor);
    const value = (outcome: Outcome, round: number) => {
      const least = floor === undefined ? 0 : floor.samples[round]?.[budget.what ?? "cpu"];
      return (outcome.samples[round]?.[budget.what ?? "cpu"] ?? Number.NaN) - (least ?? Number.NaN);
    };
    const ratios = (own?.samples ?? []).flatMap((_, round) => {
      const best = Math.min(...peers.map((outcome) => value(outcome, round)).filter((added) => added > 0));
      const ratio = value(own!, round) / best;
      // If the peers add nothing measurable, there is nothing to compare with.
      return Number.isNaN(ratio) || best === Number.POSITIVE_INFINITY ? [] : [ratio];
    });
    if (ratios.length === 0) {
      const why = [own, ...peers].map((outcome) => outcome?.missing ?? outcome?.failures[0]).find(Boolean);
      return { budget, missing: why ?? "not measured", met: false };
    }
    const ratio = median(ratios);
    return { budget, ratio, spread: [Math.min(...ratios), Math.max(...ratios)], met: ratio <= budget[bound] };
  });
}
