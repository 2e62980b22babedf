import { createClient } from "@connectrpc/connect";
import { AuditLog, AuditOutcome } from "../gen/sallyport/v1/audit_log_pb.ts";
import { toSecondsIfAny } from "./durations.ts";
import { timeOrAgo } from "./flags.ts";
import { annotationsOf, nameOf, table, timeOf } from "./output.ts";
import { noteMore, type PageOptions, pageFlags, pages } from "./pages.ts";
import type { AddCommands, Body } from "./session.ts";

interface ListOptions extends PageOptions {
  readonly tenant?: string;
  readonly actor?: string;
  readonly action?: string;
  readonly target?: string;
  readonly owner?: string;
  readonly after?: number;
  readonly before?: number;
}

/** `sallyport audit …`: lists audit events. */
export const addAudit: AddCommands = (program, run) => {
  const audit = program.command("audit").description("list: what was done, by whom");
  const list = audit
    .command("list")
    .description("list events, newest first")
    .option("--tenant <id>", "of this tenant; by default the caller's own")
    .option("--actor <provenance>", 'done by: "token:sp_adm_1x7Kd02Qa", "bootstrap", "session:ann"')
    .option("--action <action>", 'only this: "token.revoke", "principal.update"')
    .option("--target <target>", 'done to: "token:tok_…", "principal:bot:ci", "tenant:acme"')
    .option("--owner <type:id>", "done to tokens of this principal")
    .option("--after <time>", 'since then; "36h" means 36 hours ago', timeOrAgo)
    .option("--before <time>", "before then", timeOrAgo);
  pageFlags(list).action(run(listEvents));
};

const listEvents: Body<ListOptions> = async (session, { limit, all, after, before, ...filter }) => {
  const client = createClient(AuditLog, session.admin());
  const response = await pages(
    { limit, all },
    (page) =>
      client.listAuditEvents({ ...filter, ...page, after: toSecondsIfAny(after), before: toSecondsIfAny(before) }),
    ({ events }) => events,
  );
  session.answer(AuditLog.method.listAuditEvents, response, ({ events }) =>
    table(
      ["TIME", "ACTOR", "ADDRESS", "ACTION", "TARGET", "OWNER", "OUTCOME", "FACTS"],
      events.map((event) => [
        event.time === undefined ? "" : timeOf(event.time),
        event.actor,
        event.actorAddress,
        event.action,
        event.target,
        event.owner,
        nameOf(AuditOutcome, event.outcome),
        annotationsOf(event.metadata),
      ]),
    ),
  );
  noteMore(session, response);
};
