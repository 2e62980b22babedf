import { Argument, type Command } from "commander";
import type { Io } from "./session.ts";

/** One place of the command tree: the words that lead there, with a space before each, and the words that may follow. */
interface Place {
  readonly path: string;
  readonly commands: readonly string[];
  readonly options: readonly string[];
}

const SHELLS = { bash, zsh, fish };

/** `completion bash|zsh|fish`: prints the completion script of a shell. It names the commands of this version. */
export function addCompletion(program: Command, io: Io): void {
  program
    .command("completion")
    .description("print the completion script of a shell: source <(sallyport completion bash)")
    .addArgument(new Argument("<shell>").choices(Object.keys(SHELLS)))
    .action((shell: keyof typeof SHELLS) => void io.stdout.write(SHELLS[shell](places(program))));
}

function places(command: Command, path = "", inherited: readonly string[] = []): Place[] {
  const options = [...command.options.flatMap(({ long }) => long ?? []), ...inherited];
  const children = command.commands;
  return [
    { path, commands: children.map((child) => child.name()), options: [...options, "--help"] },
    ...children.flatMap((child) => places(child, `${path} ${child.name()}`, options)),
  ];
}

function bash(tree: readonly Place[]): string {
  const known = tree.filter(({ path }) => path !== "").map(({ path }) => `"${path}"`);
  const cases = tree.map(
    ({ path, commands, options }) => `    "${path}") words="${[...commands, ...options].join(" ")}" ;;`,
  );
  return `# bash completion of sallyport
_sallyport() {
  local path="" words="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$path \${COMP_WORDS[i]}" in
      ${known.join(" | ")}) path="$path \${COMP_WORDS[i]}" ;;
    esac
  done
  case "$path" in
${cases.join("\n")}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _sallyport sallyport
`;
}

function zsh(tree: readonly Place[]): string {
  return `#compdef sallyport\nautoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n${bash(tree)}`;
}

function fish(tree: readonly Place[]): string {
  const known = tree.filter(({ path }) => path !== "").map(({ path }) => `'${path}'`);
  const rules = tree.flatMap(({ path, commands, options }) => [
    ...(commands.length > 0
      ? [`complete -c sallyport -f -n "__sallyport_at '${path}'" -a '${commands.join(" ")}'`]
      : []),
    ...options.map((option) => `complete -c sallyport -n "__sallyport_at '${path}'" -l ${option.slice(2)}`),
  ]);
  return `# fish completion of sallyport
function __sallyport_at
  set -l path ''
  for word in (commandline -opc)[2..]
    switch "$path $word"
      case ${known.join(" ")}
        set path "$path $word"
    end
  end
  test "$path" = "$argv[1]"
end
${rules.join("\n")}
`;
}
