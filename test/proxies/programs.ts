import { fetchProgram, type ProgramName } from "../../scripts/fetch.ts";

/** A proxy's program, or why there is none here: its suite is then skipped under that reason. */
export type Found = { readonly path: string; readonly why?: undefined } | { readonly path: ""; readonly why: string };

export async function find(name: string): Promise<Found> {
  return fetchProgram(name as ProgramName).then(
    (path) => ({ path }),
    (error: Error) => ({
      path: "",
      why: error instanceof TypeError ? `scripts/fetch.ts has no recipe for ${name}` : error.message,
    }),
  );
}

/** The title of a suite, with the reason where it can not be run. */
export function titled(title: string, { why }: Found): string {
  return why === undefined ? title : `${title} (not here: ${why})`;
}
