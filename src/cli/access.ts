import { createClient } from "@connectrpc/connect";
import { AuditLog } from "../gen/sallyport/v1/audit_log_pb.ts";
import { Verdict } from "../gen/sallyport/v1/token_validator_pb.ts";
import { toSecondsIfAny } from "./durations.ts";
import { names, oneOf, timeOrAgo } from "./flags.ts";
import { nameOf, table, timeOf } from "./output.ts";
import { noteMore, type PageOptions, pageFlags, pages } from "./pages.ts";
import type { AddCommands, Body } from "./session.ts";

interface ListOptions extends PageOptions {
  readonly tenant?: string;
  readonly principal?: string;
  readonly token?: string;
  readonly verdict?: Verdict;
  readonly after?: number;
  readonly before?: number;
}

/** `sallyport access …`: lists uses of tokens. */
export const addAccess: AddCommands = (program, run) => {
  const access = program.command("access").description("list: which token was used, where and with what answer");
  const list = access
    .command("list")
    .description("list recorded uses, newest first")
    .option("--tenant <id>", "of tokens of this tenant; by default the caller's own")
    .option("--principal <type:id>", "of tokens of this principal")
    .option("--token <id>", 'of this token: "tok_…"')
    .option("--verdict <verdict>", `with this answer: ${names(Verdict)}`, oneOf<Verdict>(Verdict))
    .option("--after <time>", 'since then; "36h" means 36 hours ago', timeOrAgo)
    .option("--before <time>", "before then", timeOrAgo);
  pageFlags(list).action(run(listUses));
};

const listUses: Body<ListOptions> = async (session, { limit, all, after, before, token, ...filter }) => {
  const client = createClient(AuditLog, session.admin());
  const times = { after: toSecondsIfAny(after), before: toSecondsIfAny(before) };
  const response = await pages(
    { limit, all },
    (page) => client.listAccessEvents({ ...filter, tokenId: token ?? "", ...page, ...times }),
    ({ events }) => events,
  );
  session.answer(AuditLog.method.listAccessEvents, response, ({ events }) =>
    table(
      [
        "TIME",
        "TOKEN",
        "PRINCIPAL",
        "VERDICT",
        "REASON",
        "SCOPES",
        "AUDIENCE",
        "REQUEST",
        "WORKLOAD",
        "ADDRESS",
        "USES",
      ],
      events.map((event) => [
        event.time === undefined ? "" : timeOf(event.time),
        event.tokenId,
        event.principal,
        nameOf(Verdict, event.verdict),
        event.reason,
        event.scopes.join(" "),
        event.audience,
        [event.method, event.host + event.path].filter((part) => part !== "").join(" "),
        event.workload,
        event.clientAddress,
        String(event.uses),
      ]),
    ),
  );
  noteMore(session, response);
};
