import { createClient } from "@connectrpc/connect";
import { type Tenant, TenantAdmin, TenantState } from "../gen/sallyport/v1/tenant_admin_pb.ts";
import { annotation, clearFlag, maskOf, names, noWaitFlag, oneOf, SAFE_TO_REPEAT, switchFlags } from "./flags.ts";
import { annotationsOf, effectOf, fromNow, nameOf, paragraphs, record, table, timeAndDistance } from "./output.ts";
import { noteMore, type PageOptions, pageFlags, pages } from "./pages.ts";
import type { AddCommands, Body } from "./session.ts";

interface FieldOptions {
  readonly displayName?: string;
  readonly annotation?: Record<string, string>;
}

interface UpdateOptions extends FieldOptions {
  readonly suspend?: true;
  readonly resume?: true;
  readonly clear?: string[];
  readonly etag?: string;
  readonly wait: boolean;
}

interface ListOptions extends PageOptions {
  readonly state?: TenantState;
}

/** `sallyport tenants …`: for operators. */
export const addTenants: AddCommands = (program, run) => {
  const tenants = program.command("tenants").description("create, get, list, update: tenants, for operators");
  const fields = (name: string) =>
    tenants
      .command(name)
      .argument("<id>", 'the tenant: "acme"')
      .option("--display-name <name>", "a name for people")
      .option("--annotation <key=value>", "a fact for programs; repeatable", annotation);

  fields("create").description("create a tenant").action(run(create));
  const shown = tenants.command("get").argument("<id>", 'the tenant: "acme"').description("show one tenant");
  shown.action(run(get));
  const list = tenants
    .command("list")
    .description("list tenants, newest first")
    .option("--state <state>", `in this state: ${names(TenantState)}`, oneOf<TenantState>(TenantState));
  pageFlags(list).action(run(listTenants));

  const change = fields("update")
    .description("change the fields given, and no others")
    .option("--etag <etag>", "only if the tenant is still as it was with this etag");
  switchFlags(change, ["suspend", "refuse all its tokens for now"], ["resume", "undo --suspend"]);
  clearFlag(change, ["display_name", "annotations"]);
  noWaitFlag(change).action(run(update));
};

const create: Body<FieldOptions> = async (session, options, [id = ""]) => {
  // No request id here: a repeat of a create that did happen is TENANT_EXISTS.
  session.situation.repeat = `look with: sallyport tenants get ${id}`;
  const { displayName, annotation: annotations } = options;
  const response = await createClient(TenantAdmin, session.admin()).createTenant({
    tenant: { id, displayName, annotations },
  });
  session.answer(TenantAdmin.method.createTenant, response, ({ tenant }) => tenantRecord(tenant, session.now));
};

const get: Body<object> = async (session, _options, [id = ""]) => {
  const response = await createClient(TenantAdmin, session.admin()).getTenant({ id });
  session.answer(TenantAdmin.method.getTenant, response, ({ tenant }) => tenantRecord(tenant, session.now));
};

const listTenants: Body<ListOptions> = async (session, { limit, all, state }) => {
  const client = createClient(TenantAdmin, session.admin());
  const response = await pages(
    { limit, all },
    (page) => client.listTenants({ state, ...page }),
    ({ tenants }) => tenants,
  );
  session.answer(TenantAdmin.method.listTenants, response, ({ tenants }) =>
    table(
      ["TENANT", "NAME", "STATE", "CREATED"],
      tenants.map((tenant) => [
        tenant.id,
        tenant.displayName,
        nameOf(TenantState, tenant.state),
        fromNow(tenant.createTime, session.now),
      ]),
    ),
  );
  noteMore(session, response);
};

const update: Body<UpdateOptions> = async (session, options, [id = ""]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const { displayName, annotation: annotations, suspend, resume, etag, wait } = options;
  const state = suspend ? TenantState.SUSPENDED : resume ? TenantState.ACTIVE : undefined;
  const updateMask = maskOf({ display_name: displayName, state, annotations }, options.clear);
  const response = await createClient(TenantAdmin, session.admin()).updateTenant({
    tenant: { id, displayName, annotations, state, etag },
    updateMask,
    noWait: !wait,
  });
  session.answer(TenantAdmin.method.updateTenant, response, ({ tenant, effect }) =>
    paragraphs(tenantRecord(tenant, session.now), effectOf(effect)),
  );
};

function tenantRecord(tenant: Tenant | undefined, now: number): string {
  if (tenant === undefined) return "";
  return record([
    ["tenant", tenant.id],
    ["state", nameOf(TenantState, tenant.state)],
    ["name", tenant.displayName],
    ["annotations", annotationsOf(tenant.annotations)],
    ["created", timeAndDistance(tenant.createTime, now)],
    ["etag", tenant.etag],
  ]);
}
