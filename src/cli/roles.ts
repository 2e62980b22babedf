import { createClient } from "@connectrpc/connect";
import { type Role, RoleAdmin } from "../gen/sallyport/v1/role_admin_pb.ts";
import { clearFlag, maskOf, noWaitFlag, repeatable, SAFE_TO_REPEAT } from "./flags.ts";
import { effectOf, fromNow, paragraphs, record, table, timeAndDistance } from "./output.ts";
import { noteMore, type PageOptions, pageFlags, pages } from "./pages.ts";
import type { AddCommands, Body } from "./session.ts";

interface PlaceOptions {
  readonly tenant?: string;
}

interface FieldOptions extends PlaceOptions {
  readonly description?: string;
  readonly scope?: string[];
}

interface CreateOptions extends FieldOptions {
  readonly administrative?: true;
}

interface UpdateOptions extends FieldOptions {
  readonly clear?: string[];
  readonly etag?: string;
  readonly wait: boolean;
}

interface DeleteOptions extends PlaceOptions {
  readonly force?: true;
  readonly wait: boolean;
}

/** `sallyport roles …`: named lists of scopes that tokens hold. */
export const addRoles: AddCommands = (program, run) => {
  const roles = program
    .command("roles")
    .description("create, get, list, update, delete: named lists of scopes that tokens hold");
  const one = (command: string) =>
    roles
      .command(command)
      .argument("<name>", 'the role: "deployer"')
      .option("--tenant <id>", "its tenant; by default the caller's own");
  const fields = (command: string) =>
    one(command)
      .option("--description <text>", "free text")
      .option("--scope <scope>", "a scope of the role; repeatable", repeatable);

  fields("create")
    .description("create a role")
    .option("--administrative", "it may hold sallyport. scopes; only administrative tokens hold it")
    .action(run(create));
  one("get").description("show one role").action(run(get));
  const list = roles
    .command("list")
    .description("list roles, newest first")
    .option("--tenant <id>", "of this tenant; by default the caller's own");
  pageFlags(list).action(run(listRoles));

  const change = fields("update")
    .description("change the fields given, and no others; a list given replaces the whole list")
    .option("--etag <etag>", "only if the role is still as it was with this etag");
  clearFlag(change, ["description", "scopes"]);
  noWaitFlag(change).action(run(update));

  const remove = one("delete")
    .description("delete a role, for good")
    .option("--force", "also if live tokens hold it: they lose its scopes");
  noWaitFlag(remove).action(run(deleteRole));
};

const create: Body<CreateOptions> = async (session, options, [name = ""]) => {
  // No request id here: a repeat of a create that did happen is ROLE_EXISTS.
  session.situation.repeat = `look with: sallyport roles get ${name}`;
  const { tenant, description, scope: scopes, administrative } = options;
  const response = await createClient(RoleAdmin, session.admin()).createRole({
    role: { tenant, name, description, scopes, administrative: administrative === true },
  });
  session.answer(RoleAdmin.method.createRole, response, ({ role }) => roleRecord(role, session.now));
};

const get: Body<PlaceOptions> = async (session, { tenant }, [name = ""]) => {
  const response = await createClient(RoleAdmin, session.admin()).getRole({ tenant, name });
  session.answer(RoleAdmin.method.getRole, response, ({ role }) => roleRecord(role, session.now));
};

const listRoles: Body<PageOptions & PlaceOptions> = async (session, { limit, all, tenant }) => {
  const client = createClient(RoleAdmin, session.admin());
  const response = await pages(
    { limit, all },
    (page) => client.listRoles({ tenant, ...page }),
    ({ roles }) => roles,
  );
  session.answer(RoleAdmin.method.listRoles, response, ({ roles }) =>
    table(
      ["ROLE", "SCOPES", "KIND", "CREATED"],
      roles.map((role) => [
        role.name,
        role.scopes.join(" "),
        role.administrative ? "administrative" : "",
        fromNow(role.createTime, session.now),
      ]),
    ),
  );
  noteMore(session, response);
};

const update: Body<UpdateOptions> = async (session, options, [name = ""]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const { tenant, description, scope: scopes, etag, wait } = options;
  const response = await createClient(RoleAdmin, session.admin()).updateRole({
    role: { tenant, name, description, scopes, etag },
    updateMask: maskOf({ description, scopes }, options.clear),
    noWait: !wait,
  });
  session.answer(RoleAdmin.method.updateRole, response, ({ role, effect }) =>
    paragraphs(roleRecord(role, session.now), effectOf(effect)),
  );
};

const deleteRole: Body<DeleteOptions> = async (session, { tenant, force, wait }, [name = ""]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const response = await createClient(RoleAdmin, session.admin()).deleteRole({
    tenant,
    name,
    force: force === true,
    noWait: !wait,
  });
  session.answer(RoleAdmin.method.deleteRole, response, ({ role, effect }) =>
    paragraphs(roleRecord(role, session.now), effectOf(effect)),
  );
};

function roleRecord(role: Role | undefined, now: number): string {
  if (role === undefined) return "";
  return record([
    ["role", role.name],
    ["id", role.id],
    ["tenant", role.tenant],
    ["description", role.description],
    ["scopes", role.scopes.join(" ")],
    ["administrative", role.administrative ? "yes" : ""],
    ["created", timeAndDistance(role.createTime, now)],
    ["etag", role.etag],
  ]);
}
