import { createClient } from "@connectrpc/connect";
import { Option } from "commander";
import { TokenAdmin, TokenState } from "../gen/sallyport/v1/token_admin_pb.ts";
import { toSecondsIfAny } from "./durations.ts";
import {
  clearFlag,
  maskOf,
  names,
  noWaitFlag,
  oneOf,
  repeatable,
  SAFE_TO_REPEAT,
  switchFlags,
  time,
  timeOrAgo,
} from "./flags.ts";
import { effectOf, paragraphs } from "./output.ts";
import { noteMore, type PageOptions, pageFlags, pages } from "./pages.ts";
import type { AddCommands, Body } from "./session.ts";
import {
  attachedTable,
  CLEARABLE,
  type FieldOptions,
  fieldFlags,
  fieldsOf,
  pathsOf,
  tokenRecord,
  tokenTable,
} from "./token-fields.ts";
import { addCreate, addRotate } from "./tokens-issue.ts";
import { addDetach, addRevoke, addRevokeMany } from "./tokens-revoke.ts";

interface ListOptions extends PageOptions {
  readonly tenant?: string;
  readonly principal?: string;
  readonly profile?: string;
  readonly state?: TokenState;
  readonly hint?: string;
  readonly createdAfter?: number;
  readonly createdBefore?: number;
  readonly lastUsedBefore?: number;
  readonly expiresBefore?: number;
  readonly neverExpires?: true;
  readonly createdBy?: string;
  readonly role?: string;
  readonly attached?: true;
  readonly name?: string;
  readonly id?: string[];
  readonly familyOf?: string;
  readonly parent?: string;
}

interface UpdateOptions extends FieldOptions {
  readonly expiresAt?: number;
  readonly expiry: boolean;
  readonly disable?: true;
  readonly enable?: true;
  readonly clear?: string[];
  readonly etag?: string;
  readonly wait: boolean;
}

/** `sallyport tokens …`: issue, read, change, rotate and revoke tokens. */
export const addTokens: AddCommands = (program, run) => {
  const tokens = program
    .command("tokens")
    .description("create, get, list, update, rotate, detach, revoke, revoke-many");
  addCreate(tokens, run);

  const shown = tokens.command("get").argument("<id>", "tok_…").description("show one token");
  shown.action(run(get));

  const list = tokens
    .command("list")
    .description("list tokens, newest first")
    .option("--tenant <id>", "of this tenant, by default the caller's own; - for all tenants, for operators")
    .option("--principal <type:id>", "of this principal")
    .option("--profile <name>", "of this kind")
    .option("--state <state>", `in this state: ${names(TokenState)}`, oneOf<TokenState>(TokenState))
    .option("--hint <hint>", "with exactly this hint")
    .option("--created-after <time>", 'created since then; "36h" means 36 hours ago', timeOrAgo)
    .option("--created-before <time>", "created before then", timeOrAgo)
    .option("--last-used-before <time>", "not used since then, or never", timeOrAgo)
    .option("--expires-before <time>", "with an end before then", time)
    .option("--never-expires", "without an end")
    .option("--created-by <caller>", 'made by this caller: "token:sp_adm_1x7Kd02Qa", "session:ann"')
    .option("--role <name>", "that hold this role")
    .option("--attached", "instead of the tenant's own: those of others that are attached to it")
    .option("--name <prefix>", "with a display name that begins so")
    .option("--id <id>", "with this id; repeatable, at most 100", repeatable)
    .option("--family-of <id>", "that came from or went to this token by rotation, and the token itself")
    .option("--parent <id>", "that this token minted");
  pageFlags(list).action(run(listTokens));

  const change = tokens
    .command("update")
    .argument("<id>", "tok_…")
    .description("change the fields given, and no others; a list given replaces the whole list");
  fieldFlags(change)
    .addOption(new Option("--expires-at <time>", "the time of its expiry").argParser(time).conflicts("expiry"))
    .option("--no-expiry", "no expiry, if the profile allows that")
    .option("--etag <etag>", "only if the token is still as it was with this etag");
  switchFlags(change, ["disable", "refuse it for now"], ["enable", "undo --disable"]);
  clearFlag(change, CLEARABLE);
  noWaitFlag(change).action(run(update));

  addRotate(tokens, run);
  addDetach(tokens, run);
  addRevoke(tokens, run);
  addRevokeMany(tokens, run);
};

const get: Body<object> = async (session, _options, [id = ""]) => {
  const response = await createClient(TokenAdmin, session.admin()).getToken({ id });
  session.answer(TokenAdmin.method.getToken, response, ({ token }) => tokenRecord(token, session.now));
};

const listTokens: Body<ListOptions> = async (session, options) => {
  const { createdAfter, createdBefore, lastUsedBefore, expiresBefore, limit, all, ...rest } = options;
  const { name, id, neverExpires, ...filter } = rest;
  const client = createClient(TokenAdmin, session.admin());
  const response = await pages(
    { limit, all },
    (page) =>
      client.listTokens({
        ...filter,
        ...page,
        createdAfter: toSecondsIfAny(createdAfter),
        createdBefore: toSecondsIfAny(createdBefore),
        lastUsedBefore: toSecondsIfAny(lastUsedBefore),
        expiresBefore: toSecondsIfAny(expiresBefore),
        noExpiry: neverExpires,
        displayNamePrefix: name,
        ids: id,
      }),
    ({ tokens }) => tokens,
  );
  session.answer(TokenAdmin.method.listTokens, response, ({ tokens }) =>
    (options.attached ? attachedTable : tokenTable)(tokens, session.now),
  );
  noteMore(session, response);
};

const update: Body<UpdateOptions> = async (session, options, [id = ""]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const { disable, enable, expiresAt, expiry, etag, wait } = options;
  const fields = fieldsOf(options);
  const updateMask = maskOf(
    {
      ...pathsOf(fields),
      expire_time: expiresAt ?? (expiry ? undefined : "never"),
      disabled: disable ?? enable,
    },
    options.clear,
  );
  const response = await createClient(TokenAdmin, session.admin()).updateToken({
    token: {
      id,
      ...fields,
      expireTime: toSecondsIfAny(expiresAt),
      disabled: disable === true,
      etag,
    },
    updateMask,
    noWait: !wait,
  });
  session.answer(TokenAdmin.method.updateToken, response, ({ token, effect }) =>
    paragraphs(tokenRecord(token, session.now), effectOf(effect)),
  );
};
