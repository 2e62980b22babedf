import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build, type Plugin } from "esbuild";

const SOURCE = new URL("../console/", import.meta.url);
/** The folder of the built files. */
export const DIST = new URL("../src/console/dist/", import.meta.url);

/**
 * The files of the console, built: the same bytes each time, on any machine. `changed` makes mutants for tests, by the
 * name of a file in console/src.
 */
export async function builtConsole(
  changed: Readonly<Record<string, (source: string) => string>> = {},
): Promise<Map<string, Uint8Array>> {
  const mutants: Plugin = {
    name: "mutants",
    setup({ onLoad }) {
      for (const [name, change] of Object.entries(changed)) {
        onLoad({ filter: new RegExp(`/src/${name.replace(".", "\\.")}$`) }, ({ path }) => {
          const source = readFileSync(path, "utf8");
          const contents = change(source);
          if (contents === source) throw new Error(`the mutant of ${name} changes nothing`);
          return { contents, loader: "tsx" };
        });
      }
    },
  };
  const { outputFiles } = await build({
    absWorkingDir: fileURLToPath(SOURCE),
    entryPoints: { app: "src/main.tsx", "app-style": "app.css" },
    outdir: "dist",
    bundle: true,
    minify: true,
    format: "esm",
    target: ["es2022", "chrome111", "firefox128", "safari17"],
    charset: "utf8",
    jsx: "automatic",
    jsxImportSource: "preact",
    legalComments: "none",
    plugins: [mutants],
    write: false,
  });
  const built = (end: string) => outputFiles.find(({ path }) => path.endsWith(end))!.contents;
  return new Map([
    ["index.html", readFileSync(new URL("index.html", SOURCE))],
    ["app.js", built("app.js")],
    ["app.css", built("app-style.css")],
    ["icon.svg", readFileSync(new URL("icon.svg", SOURCE))],
  ]);
}
