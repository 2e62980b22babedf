import { createClient } from "@connectrpc/connect";
import { InvalidArgumentError, Option } from "commander";
import { FederationAdmin, type TrustRule, TrustRuleKind } from "../gen/sallyport/v1/federation_admin_pb.ts";
import { toSeconds } from "./durations.ts";
import {
  clearFlag,
  duration,
  maskOf,
  names,
  noWaitFlag,
  oneOf,
  repeatable,
  SAFE_TO_REPEAT,
  switchFlags,
  wholeNumber,
} from "./flags.ts";
import { effectOf, fromNow, paragraphs, record, table, timeAndDistance } from "./output.ts";
import { noteMore, type PageOptions, pageFlags, pages } from "./pages.ts";
import type { AddCommands, Body } from "./session.ts";

interface PlaceOptions {
  readonly tenant?: string;
}

interface Matched {
  readonly claim: string;
  readonly value: { readonly case: "equals" | "prefix"; readonly value: string };
}

interface FieldOptions extends PlaceOptions {
  readonly audience?: string;
  readonly match?: Matched[];
  readonly scope?: string[];
  readonly maxTtl?: number;
  readonly maxTokenAge?: number;
  readonly singleUse?: true;
  readonly manyUses?: true;
  readonly maxMintsPerHour?: number;
}

interface CreateOptions extends FieldOptions {
  readonly issuer: string;
  readonly kind: TrustRuleKind;
  readonly principal: string;
  readonly profile: string;
}

interface UpdateOptions extends FieldOptions {
  readonly clear?: string[];
  readonly disable?: true;
  readonly enable?: true;
  readonly etag?: string;
  readonly wait: boolean;
}

interface DeleteOptions extends PlaceOptions {
  readonly wait: boolean;
}

/** `sallyport rules …`: trust rules, by which workloads exchange a JWT for a token. */
export const addRules: AddCommands = (program, run) => {
  const rules = program
    .command("rules")
    .description("create, get, list, update, delete: trust rules, by which workloads exchange a JWT for a token");
  const one = (command: string) =>
    rules
      .command(command)
      .argument("<name>", 'the rule: "deploy"')
      .option("--tenant <id>", "its tenant; by default the caller's own");
  const fields = (command: string) =>
    switchFlags(
      one(command)
        .option("--audience <text>", "the audience that the JWT must have")
        .option("--match <claim=value>", "a claim that the JWT must have; claim^=value: begins so; repeatable", match)
        .option("--scope <scope>", "a scope of the tokens; repeatable", repeatable)
        .addOption(
          new Option("--max-ttl <duration>", "the life of the tokens; at most 1h, default 15m").argParser(duration),
        )
        .addOption(
          new Option("--max-token-age <duration>", "the greatest age of the JWT; default 10m").argParser(duration),
        )
        .addOption(
          new Option("--max-mints-per-hour <number>", "exchanges in an hour; default 600").argParser(wholeNumber),
        ),
      ["single-use", "each JWT is exchanged once; the default, except for kubernetes"],
      ["many-uses", "a JWT is exchanged as often as it is shown"],
    );

  fields("create")
    .description("create a trust rule")
    .requiredOption("--issuer <name>", "an entry of federation.issuers in the configuration")
    .addOption(
      new Option("--kind <kind>", `the platform: ${names(TrustRuleKind)}`)
        .argParser(oneOf(TrustRuleKind))
        .makeOptionMandatory(),
    )
    .requiredOption("--principal <principal>", 'the principal of the tokens: "bot:ci"')
    .requiredOption("--profile <profile>", "the profile of the tokens")
    .action(run(create));
  one("get").description("show one trust rule").action(run(get));
  const list = rules
    .command("list")
    .description("list trust rules, newest first")
    .option("--tenant <id>", "of this tenant; by default the caller's own");
  pageFlags(list).action(run(listRules));

  const change = switchFlags(
    fields("update")
      .description("change the fields given, and no others; a list given replaces the whole list")
      .option("--etag <etag>", "only if the rule is still as it was with this etag"),
    ["disable", "exchange nothing, and revoke what the rule minted"],
    ["enable", "exchange again"],
  );
  clearFlag(change, ["scopes"]);
  noWaitFlag(change).action(run(update));
  noWaitFlag(one("delete").description("delete a trust rule, for good, and revoke what it minted")).action(
    run(deleteRule),
  );
};

/** `claim=value` or `claim^=value`, repeatable. */
function match(text: string, before: readonly Matched[] = []): Matched[] {
  const equals = text.indexOf("=");
  const prefix = text[equals - 1] === "^";
  const claim = text.slice(0, prefix ? equals - 1 : equals);
  if (equals < 1 || claim === "") throw new InvalidArgumentError("It must be claim=value or claim^=value.");
  return [...before, { claim, value: { case: prefix ? "prefix" : "equals", value: text.slice(equals + 1) } }];
}

function fieldsOf(options: FieldOptions) {
  const {
    audience,
    match: matched,
    scope: scopes,
    maxTtl,
    maxTokenAge,
    singleUse,
    manyUses,
    maxMintsPerHour,
  } = options;
  const once = singleUse === true ? true : manyUses === true ? false : undefined;
  const life = maxTtl === undefined ? undefined : toSeconds(maxTtl);
  const age = maxTokenAge === undefined ? undefined : toSeconds(maxTokenAge);
  return { audience, match: matched, scopes, maxTtl: life, maxTokenAge: age, singleUse: once, maxMintsPerHour };
}

const create: Body<CreateOptions> = async (session, options, [name = ""]) => {
  // No request id here: a repeat of a create that did happen is RULE_EXISTS.
  session.situation.repeat = `look with: sallyport rules get ${name}`;
  const { tenant, issuer, kind, principal, profile } = options;
  const response = await createClient(FederationAdmin, session.admin()).createTrustRule({
    rule: { tenant, name, issuer, kind, principal, profile, ...fieldsOf(options) },
  });
  session.answer(FederationAdmin.method.createTrustRule, response, ({ rule }) => ruleRecord(rule, session.now));
};

const get: Body<PlaceOptions> = async (session, { tenant }, [name = ""]) => {
  const response = await createClient(FederationAdmin, session.admin()).getTrustRule({ tenant, name });
  session.answer(FederationAdmin.method.getTrustRule, response, ({ rule }) => ruleRecord(rule, session.now));
};

const listRules: Body<PageOptions & PlaceOptions> = async (session, { limit, all, tenant }) => {
  const client = createClient(FederationAdmin, session.admin());
  const response = await pages(
    { limit, all },
    (page) => client.listTrustRules({ tenant, ...page }),
    ({ rules }) => rules,
  );
  session.answer(FederationAdmin.method.listTrustRules, response, ({ rules }) =>
    table(
      ["RULE", "ID", "KIND", "PRINCIPAL", "PROFILE", "STATE", "CREATED"],
      rules.map((rule) => [
        rule.name,
        rule.id,
        kindName(rule.kind),
        rule.principal,
        rule.profile,
        rule.disabled ? "disabled" : "",
        fromNow(rule.createTime, session.now),
      ]),
    ),
  );
  noteMore(session, response);
};

const update: Body<UpdateOptions> = async (session, options, [name = ""]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const { tenant, etag, wait, disable, enable } = options;
  const fields = fieldsOf(options);
  const disabled = disable === true ? true : enable === true ? false : undefined;
  const { audience, match: matched, scopes } = fields;
  const mask = {
    ...{ audience, match: matched, scopes, disabled },
    max_ttl: fields.maxTtl,
    max_token_age: fields.maxTokenAge,
    single_use: fields.singleUse,
    max_mints_per_hour: fields.maxMintsPerHour,
  };
  const response = await createClient(FederationAdmin, session.admin()).updateTrustRule({
    rule: { tenant, name, etag, disabled, ...fields },
    updateMask: maskOf(mask, options.clear),
    noWait: !wait,
  });
  session.answer(FederationAdmin.method.updateTrustRule, response, ({ rule, effect, revokedCount }) =>
    paragraphs(ruleRecord(rule, session.now), disabled === true ? revokedText(revokedCount) : "", effectOf(effect)),
  );
};

const deleteRule: Body<DeleteOptions> = async (session, { tenant, wait }, [name = ""]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const client = createClient(FederationAdmin, session.admin());
  const response = await client.deleteTrustRule({ tenant, name, noWait: !wait });
  session.answer(FederationAdmin.method.deleteTrustRule, response, ({ rule, effect, revokedCount }) =>
    paragraphs(ruleRecord(rule, session.now), revokedText(revokedCount), effectOf(effect)),
  );
};

function revokedText(count: number): string {
  return `${count} ${count === 1 ? "token" : "tokens"} revoked`;
}

function kindName(kind: TrustRuleKind): string {
  const found = Object.entries(TrustRuleKind).find(([, value]) => value === kind);
  return (found?.[0] ?? "").toLowerCase();
}

function ruleRecord(rule: TrustRule | undefined, now: number): string {
  if (rule === undefined) return "";
  const matched = rule.match.map(({ claim, value }) => `${claim}${value.case === "prefix" ? "^" : ""}=${value.value}`);
  return record([
    ["rule", rule.name],
    ["id", rule.id],
    ["tenant", rule.tenant],
    ["issuer", rule.issuer],
    ["kind", kindName(rule.kind)],
    ["audience", rule.audience],
    ["match", matched.join(" ")],
    ["principal", rule.principal],
    ["profile", rule.profile],
    ["scopes", rule.scopes.join(" ")],
    ["max ttl", rule.maxTtl === undefined ? "" : `${rule.maxTtl.seconds}s`],
    ["max token age", rule.maxTokenAge === undefined ? "" : `${rule.maxTokenAge.seconds}s`],
    ["single use", rule.singleUse === true ? "yes" : "no"],
    ["max mints per hour", String(rule.maxMintsPerHour)],
    ["disabled", rule.disabled ? "yes" : ""],
    ["created", timeAndDistance(rule.createTime, now)],
    ["etag", rule.etag],
  ]);
}
