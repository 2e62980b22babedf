import { createClient } from "@connectrpc/connect";
import { TokenAdmin } from "../gen/sallyport/v1/token_admin_pb.ts";
import { toSecondsIfAny } from "./durations.ts";
import { usage } from "./failure.ts";
import { noWaitFlag, readText, repeatable, SAFE_TO_REPEAT, time, timeOrAgo } from "./flags.ts";
import { effectOf, paragraphs, withoutSecrets } from "./output.ts";
import type { AddCommands, Body } from "./session.ts";
import { tokenRecord } from "./token-fields.ts";

const MOST_STRINGS = 1000;

interface RevokeOptions {
  readonly tokenStringFile?: string;
  readonly family?: true;
  readonly reason?: string;
  readonly wait: boolean;
}

interface RevokeManyOptions {
  readonly tenant?: string;
  readonly principal?: string;
  readonly profile?: string;
  readonly createdBy?: string;
  readonly role?: string;
  readonly descendants?: true;
  readonly createdBefore?: number;
  readonly lastUsedBefore?: number;
  readonly expiresAfter?: number;
  readonly neverExpires?: true;
  readonly hint?: string[];
  readonly id?: string[];
  readonly tokenStringsFile?: string;
  readonly reason?: string;
  readonly dryRun?: true;
  readonly wait: boolean;
}

/** `tokens revoke` */
export const addRevoke: AddCommands = (tokens, run) => {
  const revoke = tokens
    .command("revoke")
    .argument("[id]", "tok_…")
    .description("revoke a token, for good: when this returns, no instance accepts it")
    .option("--token-string-file <file>", "instead of an id: a file with the token string, or - for stdin")
    .option("--family", "also every token of its rotation family")
    .option("--reason <text>", "for the record");
  noWaitFlag(revoke).action(run(revokeToken));
};

/** `tokens revoke-many` */
export const addRevokeMany: AddCommands = (tokens, run) => {
  const revoke = tokens
    .command("revoke-many")
    .description("revoke every token that fits all selectors given; hints, ids and strings are one selector together")
    .option("--tenant <id>", "of this tenant; alone: all its tokens")
    .option("--principal <type:id>", "of this principal")
    .option("--profile <name>", "of this kind")
    .option("--role <name>", "that hold this role")
    .option("--created-by <provenance>", 'created by: "token:sp_adm_1x7Kd02Qa", "session:ann"')
    .option(
      "--descendants",
      "also the tokens that these created, directly or not, and all that replaced one of them by rotation",
    )
    .option("--created-before <time>", 'created before then; "36h" means 36 hours ago', timeOrAgo)
    .option("--last-used-before <time>", "not used since then, nor created since then", timeOrAgo)
    .option("--expires-after <time>", "that expire after then", time)
    .option("--never-expires", "that never expire")
    .option("--hint <hint>", "with this hint; repeatable", repeatable)
    .option("--id <id>", "with this id; repeatable", repeatable)
    .option("--token-strings-file <file>", "leaked token strings, one a line, in a file or - for stdin; at most 1000")
    .option("--reason <text>", "for the record")
    .option("--dry-run", "only count and list what would be revoked");
  noWaitFlag(revoke).action(run(revokeTokens));
};

/** `tokens detach` */
export const addDetach: AddCommands = (tokens, run) => {
  const detach = tokens
    .command("detach")
    .argument("<id>", "tok_…")
    .description("take a token of another tenant out of yours: when this returns, no instance accepts it there")
    .option("--tenant <id>", "out of this tenant, by default the caller's own");
  noWaitFlag(detach).action(run(detachTenant));
};

const detachTenant: Body<{ readonly tenant?: string; readonly wait: boolean }> = async (
  session,
  options,
  [id = ""],
) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const { tenant, wait } = options;
  const response = await createClient(TokenAdmin, session.admin()).detachTenant({ id, tenant, noWait: !wait });
  session.answer(TokenAdmin.method.detachTenant, response, ({ effect }) => effectOf(effect));
};

const revokeToken: Body<RevokeOptions> = async (session, options, [id]) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const { tokenStringFile, family, reason, wait } = options;
  if ((id === undefined) === (tokenStringFile === undefined)) {
    throw usage("name one token: by its id, or by --token-string-file");
  }
  const target =
    tokenStringFile === undefined
      ? ({ case: "id", value: idOnly(id ?? "") } as const)
      : ({ case: "tokenString", value: (await readText(tokenStringFile, session.io)).trim() } as const);
  const response = await createClient(TokenAdmin, session.admin()).revokeToken({
    target,
    family,
    reason,
    noWait: !wait,
  });
  session.answer(TokenAdmin.method.revokeToken, response, ({ token, effect }) =>
    paragraphs(tokenRecord(token, session.now), `Revoked, ${effectOf(effect)}`),
  );
};

const revokeTokens: Body<RevokeManyOptions> = async (session, options) => {
  session.situation.repeat = SAFE_TO_REPEAT;
  const { tenant, principal, profile, createdBy, role, hint, id, tokenStringsFile, dryRun } = options;
  const { createdBefore, lastUsedBefore, expiresAfter, neverExpires } = options;
  const times = [createdBefore, lastUsedBefore, expiresAfter, neverExpires];
  const selectors = [tenant, principal, profile, createdBy, role, ...times, hint, id, tokenStringsFile];
  if (selectors.every((selector) => selector === undefined)) {
    throw usage("at least one selector is required (--help lists them); --dry-run shows what it would hit");
  }
  const response = await createClient(TokenAdmin, session.admin()).revokeTokens({
    tenant,
    principal,
    profile,
    createdBy,
    role,
    descendants: options.descendants,
    createdBefore: toSecondsIfAny(createdBefore),
    lastUsedBefore: toSecondsIfAny(lastUsedBefore),
    expiresAfter: toSecondsIfAny(expiresAfter),
    noExpiry: neverExpires,
    hints: hint,
    ids: id?.map(idOnly),
    tokenStrings: tokenStringsFile === undefined ? [] : stringsOf(await readText(tokenStringsFile, session.io)),
    reason: options.reason,
    noWait: !options.wait,
    dryRun,
  });
  session.answer(TokenAdmin.method.revokeTokens, response, ({ revokedCount, matchedIds, effect }) =>
    paragraphs(
      matchedIds.join("\n"),
      dryRun === true
        ? `${counted(revokedCount)} would be revoked; nothing was changed`
        : `${counted(revokedCount)} revoked, ${effectOf(effect)}`,
    ),
  );
};

/** A token string on a command line is visible to every process of this machine, so the error says that. */
function idOnly(id: string): string {
  if (withoutSecrets(id) !== id) {
    throw usage("that is a token string, not an id; a token string goes into a file or stdin, never on a command line");
  }
  return id;
}

function stringsOf(text: string): string[] {
  const strings = text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  if (strings.length === 0) throw usage("--token-strings-file holds no token string");
  if (strings.length > MOST_STRINGS) {
    throw usage(`--token-strings-file holds ${strings.length} lines; at most ${MOST_STRINGS} a call, split it`);
  }
  return strings;
}

function counted(count: number): string {
  return count === 1 ? "1 token" : `${count} tokens`;
}
