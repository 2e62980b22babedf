// Builds the Java client, for its tests and its benchmark.
import { execFile as execFileWithCallback } from "node:child_process";
import { readFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";

const PROJECT = join(import.meta.dirname, "../clients/java");
const TARGET = join(PROJECT, "target");

/** Builds it up to a phase of Maven, with what `fetchProgram("java-client")` has brought. Returns what Maven prints. */
export async function buildJavaClient(repository: string, phase: "process-test-classes" | "verify"): Promise<string> {
  const args = ["--batch-mode", `-Dmaven.repo.local=${repository}`, "--file", join(PROJECT, "pom.xml"), phase];
  try {
    return (await promisify(execFileWithCallback)("mvn", args)).stdout;
  } catch (error) {
    // Maven explains itself on its standard output.
    throw new Error(`the Java client does not build: ${(error as { stdout?: string }).stdout ?? error}`);
  }
}

/** The classes of the built client, of its tests, and of all that they need. */
export async function javaClassPath(): Promise<string> {
  const libraries = await readFile(join(TARGET, "classpath"), "utf8");
  return [join(TARGET, "test-classes"), join(TARGET, "classes"), libraries.trim()].join(delimiter);
}
