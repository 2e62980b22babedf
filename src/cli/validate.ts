import { createClient } from "@connectrpc/connect";
import { TokenValidator, type ValidateTokenResponse, Verdict } from "../gen/sallyport/v1/token_validator_pb.ts";
import { EXIT, usage } from "./failure.ts";
import { readText, repeatable } from "./flags.ts";
import { annotationsOf, nameOf, paragraphs, record, timeAndDistance } from "./output.ts";
import type { AddCommands, Body } from "./session.ts";

interface ValidateOptions {
  readonly dataAddress?: string;
  readonly callerTokenFile?: string;
  readonly scope?: string[];
  readonly audience?: string;
  readonly tenant?: string;
  readonly clientAddress?: string;
}

/** `sallyport validate`: asks the data listener about a token, as a service would. */
export const addValidate: AddCommands = (program, run) => {
  program
    .command("validate")
    .description("ask the data listener to validate a token; the token comes from stdin or --token-file")
    .option("--scope <scope>", "a scope that it must have; repeatable", repeatable)
    .option("--audience <audience>", "the audience that it must be for")
    .option("--tenant <tenant>", "the tenant in which it must be live")
    .option("--client-address <address>", "the address that it is used from")
    .option("--data-address <address>", "the data listener; default SALLYPORT_DATA_ADDRESS, else http://127.0.0.1:7400")
    .option(
      "--caller-token-file <file>",
      "your own token, for a listener that does not trust its peers; default SALLYPORT_TOKEN",
    )
    .addHelpText("after", "\nExit codes: 0 ALLOW, 1 any refusal, 69 UNDETERMINED or no answer.")
    // Checked below. Commander would print the excess arguments, and one of them is likely a token string.
    .allowExcessArguments(true)
    .action(run(validate));
};

const validate: Body<ValidateOptions> = async (session, options, args) => {
  if (args.length > 0) throw usage("a token string goes into stdin or --token-file, never on a command line");
  if (session.adminAddress !== undefined) throw usage("validate asks the data listener: --data-address, not --address");
  const tokenString = (await readText(session.judgedTokenFile ?? "-", session.io)).replace(/\r?\n$/, "");
  const transport = session.data(options.dataAddress, options.callerTokenFile);
  const response = await createClient(TokenValidator, transport).validateToken({
    tokenString,
    requiredScopes: options.scope,
    audience: options.audience,
    tenant: options.tenant,
    context: { clientAddress: options.clientAddress },
  });
  session.answer(TokenValidator.method.validateToken, response, (answer) => verdictOf(answer, session.now));
  if (response.verdict === Verdict.ALLOW) return EXIT.ok;
  return response.verdict === Verdict.UNDETERMINED ? EXIT.unavailable : EXIT.no;
};

function verdictOf({ verdict, token, missingScopes, reason }: ValidateTokenResponse, now: number): string {
  const facts = record([
    ["missing scopes", missingScopes.join(" ")],
    ["reason", reason],
    ["id", token?.id ?? ""],
    ["hint", token?.hint ?? ""],
    ["tenant", token?.tenant ?? ""],
    ["further tenants", token?.tenants.join(" ") ?? ""],
    ["profile", token?.profile ?? ""],
    ["principal", token?.principal ?? ""],
    ["scopes", token?.scopes.join(" ") ?? ""],
    ["audiences", token?.audiences.join(" ") ?? ""],
    ["annotations", annotationsOf(token?.annotations ?? {})],
    ["expires", token === undefined ? "" : timeAndDistance(token.expireTime, now) || "never"],
  ]);
  return paragraphs(nameOf(Verdict, verdict), facts);
}
