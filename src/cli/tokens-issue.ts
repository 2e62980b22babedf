import { createClient } from "@connectrpc/connect";
import { TokenAdmin } from "../gen/sallyport/v1/token_admin_pb.ts";
import { toSecondsIfAny } from "./durations.ts";
import {
  duration,
  type LifetimeOptions,
  lifetimeFlags,
  lifetimeOf,
  noWaitFlag,
  requestId,
  requestIdFlag,
  time,
} from "./flags.ts";
import { effectOf, paragraphs } from "./output.ts";
import type { AddCommands, Body } from "./session.ts";
import { type FieldOptions, fieldFlags, fieldsOf, tokenRecord } from "./token-fields.ts";

/** The warning for servers that do not send one themselves. */
const SHOWN_ONCE = "The token string is shown once: it is not stored and cannot be recovered.";

interface CreateOptions extends LifetimeOptions, FieldOptions {
  readonly profile: string;
  readonly principal: string;
  readonly tenant?: string;
  readonly notBefore?: number;
  readonly requestId?: string;
  readonly quiet?: true;
}

interface RotateOptions extends LifetimeOptions {
  readonly overlap?: number;
  readonly requestId?: string;
  readonly quiet?: true;
  readonly wait: boolean;
}

/** `tokens create` */
export const addCreate: AddCommands = (tokens, run) => {
  const create = tokens
    .command("create")
    .description("issue a token; its string is shown once")
    .requiredOption("--profile <name>", "the kind of token: pat, bot, svc, org, adm, or the operator's own")
    .requiredOption("--principal <type:id>", 'the principal that it speaks for: "user:ann", "bot:ci-runner"')
    .option("--tenant <id>", "the tenant; by default the caller's own");
  fieldFlags(create);
  lifetimeFlags(create, "the profile's default if none is given").option(
    "--not-before <time>",
    "refused before then",
    time,
  );
  requestIdFlag(create).option("--quiet", "print the token string alone").action(run(createToken));
};

/** `tokens rotate` */
export const addRotate: AddCommands = (tokens, run) => {
  const rotate = tokens
    .command("rotate")
    .argument("<id>", "tok_…")
    .description("replace a token by a new one of the same rights; its string is shown once")
    .option(
      "--overlap <duration>",
      "the time for which the old string still works, at most 7d; 0 by default",
      duration,
    );
  lifetimeFlags(rotate, "by default the lifetime of the old token");
  requestIdFlag(rotate).option("--quiet", "print the new token string alone");
  noWaitFlag(rotate).action(run(rotateToken));
};

const createToken: Body<CreateOptions> = async (session, options) => {
  const response = await createClient(TokenAdmin, session.admin()).createToken({
    tenant: options.tenant,
    profile: options.profile,
    principal: options.principal,
    ...fieldsOf(options),
    lifetime: lifetimeOf(options),
    notBeforeTime: toSecondsIfAny(options.notBefore),
    requestId: requestId(session, options.requestId),
  });
  if (options.quiet === true) session.print(response.tokenString);
  else
    session.answer(TokenAdmin.method.createToken, response, ({ token, tokenString, warning }) =>
      paragraphs(tokenRecord(token, session.now), `${warning || SHOWN_ONCE}\n${tokenString}`),
    );
};

const rotateToken: Body<RotateOptions> = async (session, options, [id = ""]) => {
  const response = await createClient(TokenAdmin, session.admin()).rotateToken({
    id,
    overlap: toSecondsIfAny(options.overlap),
    lifetime: lifetimeOf(options),
    requestId: requestId(session, options.requestId),
    noWait: !options.wait,
  });
  if (options.quiet === true) session.print(response.tokenString);
  else
    session.answer(TokenAdmin.method.rotateToken, response, ({ token, previous, effect, tokenString, warning }) =>
      paragraphs(
        tokenRecord(token, session.now),
        `The old token ${previous?.id ?? id}: ${oldUntil(options.overlap)}; the change is ${effectOf(effect)}`,
        `${warning || SHOWN_ONCE}\n${tokenString}`,
      ),
    );
};

function oldUntil(overlap: number | undefined): string {
  return overlap === undefined || overlap === 0
    ? "its string is refused from now on"
    : "its string works until the overlap ends";
}
