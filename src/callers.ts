import { trustsPeers } from "./config/checks.ts";
import { callbackOf, issuersOf, signInsOf, workloadIssuersOf } from "./config/issuers.ts";
import type { Config } from "./config/schema.ts";
import { DataCallers } from "./data-plane/data-caller.ts";
import type { Clock, Timers } from "./domain/clock.ts";
import { AppError } from "./domain/errors.ts";
import type { Keyring } from "./domain/keyring.ts";
import { Secret } from "./domain/secret.ts";
import { hasJwtHeader, parseTokenString } from "./domain/token-string.ts";
import type { PostgresAuditLog } from "./postgres/audit-log.ts";
import { PostgresCallerStates } from "./postgres/caller-states.ts";
import { PostgresConsoleSessions } from "./postgres/console-sessions.ts";
import type { Postgres } from "./postgres/pool.ts";
import type { Followed } from "./postgres/proven-reads.ts";
import type { PostgresTokenStore } from "./postgres/token-store.ts";
import { Callers } from "./rpc/caller.ts";
import { ConsoleSessions } from "./sessions/console-sessions.ts";
import { documentFetcher } from "./sessions/fetch-document.ts";
import { Sessions } from "./sessions/sessions.ts";
import { SignIn } from "./sessions/sign-in.ts";
import { IssuedSubjectTokens } from "./sessions/subject-tokens.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";
import { Signatures } from "./validation/signatures.ts";
import { type ValidateDeps, validateWith } from "./validation/validate.ts";

interface CallerParts {
  readonly db: Postgres;
  readonly store: PostgresTokenStore;
  readonly audit: PostgresAuditLog;
  readonly followed: Followed;
  readonly keyring: Keyring;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly telemetry: Telemetry;
  /** The validation of the tokens that callers show. */
  readonly validation: ValidateDeps;
}

/** Everything that says who calls: tokens, sessions, certificates, break-glass, and the JWTs that are exchanged. */
export function callersOf(config: Config, parts: CallerParts) {
  const { db, store, audit, followed, keyring, clock, timers, telemetry, validation } = parts;
  const breakGlass = config.break_glass.secret === undefined ? undefined : new Secret(config.break_glass.secret);
  const signatures = new Signatures({ clock, timers }, "callers");
  const admin = { ...validation, signatures };
  const issuers = issuersOf(config);
  const states = new PostgresCallerStates(db, followed);
  const from = { issuers, states, clock, fetchDocument: documentFetcher(), events: telemetry };
  const sessions = issuers.length > 0 ? new Sessions(from) : undefined;
  const subjects = new IssuedSubjectTokens(workloadIssuersOf(config), from);
  const consoleAuth =
    sessions === undefined || config.console.oidc.length === 0
      ? undefined
      : new ConsoleSessions({
          signIns: signInsOf(config).map((about) => new SignIn(about, callbackOf(config), clock)),
          store: new PostgresConsoleSessions(db),
          ...{ sessions, keyring, clock, events: telemetry },
          maxAgeMs: config.console.session.max_age,
          idleMs: config.console.session.idle,
        });
  const callers = new Callers({
    validate: validateWith(admin),
    rotated: {
      validate: validateWith({ ...admin, events: { ...admin.events, tokenReused: () => {} } }),
      find: async (bearer) => {
        const parsed = parseTokenString(bearer, keyring);
        // The call is not admitted yet, so a string that anybody can make must cost no read.
        const ours = parsed !== undefined && (await signatures.ours(bearer, parsed, clock.mono() + 2_000));
        if (ours === undefined) {
          throw new AppError("STORE_UNAVAILABLE", "the caller's token cannot be validated now", { retryAfterMs: 1000 });
        }
        if (!ours) return undefined;
        const token = await store.getByDigest(parsed.digest);
        return token && { token, parent: token.parent === "" ? undefined : await store.get(token.parent) };
      },
    },
    audit,
    clock,
    breakGlass,
    sessions,
    isJwtToken: (bearer) => hasJwtHeader(bearer, keyring),
    events: telemetry,
    mtls: config.callers.mtls,
  });
  const dataCallers = new DataCallers(callers, trustsPeers(config.listeners.data));
  return { callers, dataCallers, sessions, consoleAuth, subjects };
}
