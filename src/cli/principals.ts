import { createClient } from "@connectrpc/connect";
import { type Principal, PrincipalAdmin, PrincipalState } from "../gen/sallyport/v1/principal_admin_pb.ts";
import { annotation, clearFlag, maskOf, names, noWaitFlag, oneOf, SAFE_TO_REPEAT, switchFlags } from "./flags.ts";
import { annotationsOf, effectOf, fromNow, nameOf, paragraphs, record, table, timeAndDistance } from "./output.ts";
import { noteMore, type PageOptions, pageFlags, pages } from "./pages.ts";
import type { AddCommands, Body } from "./session.ts";

interface TenantOption {
  readonly tenant?: string;
}

interface FieldOptions extends TenantOption {
  readonly displayName?: string;
  readonly email?: string;
  readonly owner?: string;
  readonly annotation?: Record<string, string>;
}

interface UpdateOptions extends FieldOptions {
  readonly disable?: true;
  readonly enable?: true;
  readonly clear?: string[];
  readonly etag?: string;
  readonly wait: boolean;
}

interface ListOptions extends PageOptions, TenantOption {
  readonly type?: string;
  readonly state?: PrincipalState;
  readonly namePrefix?: string;
}

const NAME: [string, string] = ["<type:id>", 'the principal: "bot:ci-runner"'];
const TENANT: [string, string] = ["--tenant <id>", "the tenant; by default the caller's own"];

/** `sallyport principals …`: the principals that tokens speak for. */
export const addPrincipals: AddCommands = (program, run) => {
  const principals = program
    .command("principals")
    .description("create, get, list, update, delete: the principals that tokens speak for");
  const fields = (name: string) =>
    principals
      .command(name)
      .argument(...NAME)
      .option(...TENANT)
      .option("--display-name <name>", "a name for people")
      .option("--email <address>", "for people only; nothing is sent to it")
      .option("--owner <type:id>", "another principal that answers for this one")
      .option("--annotation <key=value>", "a fact for programs; repeatable", annotation);

  fields("create").description("register a principal").action(run(create));
  principals
    .command("get")
    .argument(...NAME)
    .option(...TENANT)
    .description("show one principal")
    .action(run(get));
  const list = principals
    .command("list")
    .option(...TENANT)
    .description("list principals, newest first")
    .option("--type <type>", "only user, bot, service or org")
    .option("--name-prefix <text>", 'with a name that begins so: "bot:ci"')
    .option("--state <state>", `in this state: ${names(PrincipalState)}`, oneOf<PrincipalState>(PrincipalState));
  pageFlags(list).action(run(listPrincipals));

  const change = fields("update")
    .description("change the fields given, and no others")
    .option("--etag <etag>", "only if the principal is still as it was with this etag");
  switchFlags(change, ["disable", "refuse all its tokens for now"], ["enable", "undo --disable"]);
  clearFlag(change, ["display_name", "email", "owner", "annotations"]);
  noWaitFlag(change).action(run(update));

  const removal = principals
    .command("delete")
    .argument(...NAME)
    .option(...TENANT)
    .description("delete a principal; all its tokens are refused, for good");
  noWaitFlag(removal).action(run(remove));
};

const create: Body<FieldOptions> = async (session, options, [name = ""]) => {
  // No request id here: a repeat of a create that did happen is PRINCIPAL_EXISTS.
  session.situation.repeat = `look with: sallyport principals get ${name}`;
  const response = await createClient(PrincipalAdmin, session.admin()).createPrincipal({
    principal: { name, ...fieldsOf(options) },
  });
  session.answer(PrincipalAdmin.method.createPrincipal, response, ({ principal }) =>
    principalRecord(principal, session.now),
  );
};

const get: Body<TenantOption> = async (session, { tenant }, [name = ""]) => {
  const response = await createClient(PrincipalAdmin, session.admin()).getPrincipal({ tenant, name });
  session.answer(PrincipalAdmin.method.getPrincipal, response, ({ principal }) =>
    principalRecord(principal, session.now),
  );
};

const listPrincipals: Body<ListOptions> = async (session, { limit, all, ...filter }) => {
  const client = createClient(PrincipalAdmin, session.admin());
  const response = await pages(
    { limit, all },
    (page) => client.listPrincipals({ ...filter, ...page }),
    ({ principals }) => principals,
  );
  session.answer(PrincipalAdmin.method.listPrincipals, response, ({ principals }) =>
    table(
      ["PRINCIPAL", "TENANT", "NAME", "OWNER", "STATE", "CREATED"],
      principals.map((principal) => [
        principal.name,
        principal.tenant,
        principal.displayName,
        principal.owner,
        nameOf(PrincipalState, principal.state),
        fromNow(principal.createTime, session.now),
      ]),
    ),
  );
  noteMore(session, response);
};

const update: Body<UpdateOptions> = async (session, options, [name = ""]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const { disable, enable, etag, wait } = options;
  const state = disable ? PrincipalState.DISABLED : enable ? PrincipalState.ACTIVE : undefined;
  const { displayName, email, owner, annotation: annotations } = options;
  const updateMask = maskOf({ display_name: displayName, email, owner, state, annotations }, options.clear);
  const response = await createClient(PrincipalAdmin, session.admin()).updatePrincipal({
    principal: { name, ...fieldsOf(options), state, etag },
    updateMask,
    noWait: !wait,
  });
  session.answer(PrincipalAdmin.method.updatePrincipal, response, ({ principal, effect }) =>
    paragraphs(principalRecord(principal, session.now), effectOf(effect)),
  );
};

const remove: Body<TenantOption & { wait: boolean }> = async (session, { tenant, wait }, [name = ""]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const response = await createClient(PrincipalAdmin, session.admin()).deletePrincipal({ tenant, name, noWait: !wait });
  session.answer(PrincipalAdmin.method.deletePrincipal, response, ({ principal, effect }) =>
    paragraphs(principalRecord(principal, session.now), `Deleted, ${effectOf(effect)}`),
  );
};

function fieldsOf({ tenant, displayName, email, owner, annotation: annotations }: FieldOptions) {
  return { tenant, displayName, email, owner, annotations };
}

function principalRecord(principal: Principal | undefined, now: number): string {
  if (principal === undefined) return "";
  return record([
    ["principal", principal.name],
    ["tenant", principal.tenant],
    ["state", nameOf(PrincipalState, principal.state)],
    ["name", principal.displayName],
    ["email", principal.email],
    ["owner", principal.owner],
    ["annotations", annotationsOf(principal.annotations)],
    ["created", timeAndDistance(principal.createTime, now)],
    ["etag", principal.etag],
  ]);
}
