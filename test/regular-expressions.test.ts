import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type AST, RegExpParser, visitRegExpAST } from "@eslint-community/regexpp";
import { getFirstConsumedChar } from "regexp-ast-analysis";
import { analyse } from "scslre";
import { expect, test } from "vitest";
import { parseAst } from "vitest/node";

const SRC = join(import.meta.dirname, "../src");

interface Found {
  readonly where: string;
  readonly pattern: string;
  readonly flags: string;
}

/** Every regular expression of a source text. One that is put together at run time is found without its pattern. */
function expressionsIn(text: string, file: string): Found[] {
  const found: Found[] = [];
  const visit = (node: unknown): void => {
    if (Array.isArray(node)) {
      node.forEach(visit);
      return;
    }
    if (node === null || typeof node !== "object") return;
    const { type, regex, callee, start } = node as Record<string, unknown> & { start: number };
    const where = `${file}:${text.slice(0, start).split("\n").length}`;
    if (type === "Literal" && regex !== undefined) found.push({ where, ...(regex as Omit<Found, "where">) });
    if ((type === "NewExpression" || type === "CallExpression") && (callee as { name?: string }).name === "RegExp") {
      found.push({ where: `${where}: put together at run time`, pattern: "(a+)+b", flags: "" });
    }
    Object.values(node).forEach(visit);
  };
  visit(parseAst(text, { lang: "ts" }, file));
  return found;
}

/** The reason why the expression's cost can grow faster than its input; undefined if it cannot. */
function faultOf({ pattern, flags }: Pick<Found, "pattern" | "flags">): string | undefined {
  const parser = new RegExpParser({ ecmaVersion: 2025 });
  const parsed = parser.parsePattern(pattern, undefined, undefined, { unicode: flags.includes("u") });
  if (!flags.includes("y") && triesEverywhere(parsed, flags)) return "repeats from everywhere";
  if (isAmbiguous(parsed, flags)) return "repeats alternatives that begin alike";
  const [report] = analyse(new RegExp(pattern, flags)).reports;
  return report && `${report.type}: ${report.exponential ? "exponential" : "polynomial"}`;
}

/**
 * True if an alternative begins anywhere in the input and repeats without a bound before something that can fail. The
 * engine then does the same work again from each place.
 */
function triesEverywhere({ alternatives }: AST.Pattern, flags: string): boolean {
  return alternatives.some((alternative) => {
    const [first] = alternative.elements;
    if (first?.type === "Assertion" && first.kind === "start" && !flags.includes("m")) return false;
    return unbounded(alternative).some((quantifier) => canFailAfter(quantifier, alternative));
  });
}

function unbounded(node: AST.Pattern | AST.Alternative): AST.Quantifier[] {
  const found: AST.Quantifier[] = [];
  visitRegExpAST(node, {
    onQuantifierEnter: (quantifier) => void (quantifier.max === Number.POSITIVE_INFINITY && found.push(quantifier)),
  });
  return found;
}

/** True if anything after a node must match. */
function canFailAfter(node: AST.Quantifier, root: AST.Alternative): boolean {
  for (let at: AST.Node = node; at !== root; at = at.parent!) {
    const { parent } = at;
    if (parent?.type !== "Alternative") continue;
    const behind = parent.elements.slice(parent.elements.indexOf(at as AST.Element) + 1);
    if (behind.some((element) => element.type !== "Quantifier" || element.min > 0)) return true;
  }
  return false;
}

/** True if something repeats without a bound that can match the same text in two ways. */
function isAmbiguous(pattern: AST.Pattern, flags: string): boolean {
  const read = { ignoreCase: flags.includes("i"), unicode: flags.includes("u"), dotAll: flags.includes("s") };
  return unbounded(pattern).some(({ element }) => {
    if (element.type !== "Group" && element.type !== "CapturingGroup") return false;
    const firsts = element.alternatives.map((one) => getFirstConsumedChar(one, "ltr", { ...read } as never).char);
    return firsts.some((one, i) => firsts.slice(i + 1).some((other) => !one.isDisjointWith(other)));
  });
}

test.each([
  [/^\s*([a-z]+)(?:[ \t]+(.*?))?\s*$/s],
  [/(a+)+b/],
  [/^(a|aa)+$/],
  [/=+$/],
  [/(\d+)(ms|s)/g],
  [/"(?:[^"\\]|\\.)*"$/],
  [/(\/\/[^:/@]*:).*@/s],
])("%s can backtrack without end", (expression) => {
  expect(faultOf({ pattern: expression.source, flags: expression.flags })).toBeDefined();
});

test.each([[/^bearer +([\w.-]{1,8192})$/i], [/^(?:[a-z]|%[0-9A-F]{2})+$/], [/compression=([^&]*)/], [/^a+b/y]])(
  "%s is linear",
  (expression) => {
    expect(faultOf({ pattern: expression.source, flags: expression.flags })).toBeUndefined();
  },
);

test("no regular expression of the program can take more than linear time", () => {
  const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter(
    (file) => file.endsWith(".ts") && !file.startsWith("gen"),
  );
  const all = files.flatMap((file) => expressionsIn(readFileSync(join(SRC, file), "utf8"), file));
  expect(all.length).toBeGreaterThan(50);
  const bad = all.map((found) => [found.where, `/${found.pattern}/${found.flags}`, faultOf(found)] as const);
  expect(bad.filter(([, , fault]) => fault !== undefined).map((line) => line.join("  "))).toEqual([]);
});
