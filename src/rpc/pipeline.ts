import { ConnectError, type HandlerContext, type Interceptor } from "@connectrpc/connect";
import type { Caller } from "../domain/caller.ts";
import type { Clock } from "../domain/clock.ts";
import { AppError } from "../domain/errors.ts";
import { ADMIN_ENDS_SOON_MS } from "../domain/lifetime.ts";
import { rankOf } from "../domain/rights.ts";
import { TENANT_HEADER } from "../domain/session.ts";
import type { CallLine } from "../telemetry/events.ts";
import type { Tracing } from "../telemetry/tracing.ts";
import type { Admission } from "./admission.ts";
import { type Call, callKey, requestIdFrom } from "./call.ts";
import { type Callers, permit } from "./caller.ts";
import type { TrustedProxies } from "./client-address.ts";
import type { DenialAudit } from "./denial-audit.ts";
import { asAppError, from, levelOf, statusName, toConnectError } from "./errors.ts";
import { methodOf } from "./methods.ts";
import { peerKey } from "./peer.ts";
import { requestValidator } from "./validate-request.ts";

export interface PipelineDeps {
  readonly clock: Clock;
  readonly proxies: TrustedProxies;
  readonly callers: Callers;
  readonly admission: Admission;
  readonly called: (line: CallLine) => void;
  readonly denials: DenialAudit;
  /** Undefined: no traces. */
  readonly tracing: Tracing | undefined;
}

/** One step of a call. It throws to refuse the call. */
type Step = (call: Call, deps: PipelineDeps) => void | Promise<void>;
/** Runs at the end of every call. `thrown` is undefined if the call succeeded. */
type Ending = (call: Call, deps: PipelineDeps, thrown: unknown) => void;

// The steps of every call of the admin listener, in this order. If a step refuses, only the endings still run.

const BEFORE_BODY: readonly Step[] = [
  identify, // first: every refusal and every log line needs the request id and the client's address
  authenticate, // before the body is read: an unauthenticated client must not make us read one
  authorize, // before the body too: no decoder error reaches a caller without the permission, except a session with roles, which `confirm` judges
];
const BEFORE_HANDLER: readonly Step[] = [
  admit, // before any work: a shed call has cost little and changed nothing
  confirm, // after admission: it reads a session's roles, and a flood of sessions must not keep revocations from the database
  validate, // before the handler: the handler sees only requests within their bounds
];
const ENDINGS: readonly Ending[] = [
  leave, // first: frees the admission slot before log and audit
  log, // every outcome, including the refusals of the steps above
  endSpan,
  auditDenial, // last: it neither delays nor changes the answer
];

function identify(call: Call, { proxies }: PipelineDeps): void {
  call.requestId = requestIdFrom(call.header("x-request-id"));
  call.peer = proxies.behind(call.peer, call.header("x-forwarded-for"));
}

async function authenticate(call: Call, { callers, clock, tracing }: PipelineDeps): Promise<void> {
  if (call.method.permission === "open") return;
  const { peer, method, requestId } = call;
  const credential = await call.credential();
  const ask = () => callers.authenticate(peer, credential, method, requestId, call.header(TENANT_HEADER));
  call.caller = await (tracing === undefined ? ask() : tracing.child("authenticate", ask));
  const { expireTime } = call.caller;
  // An administrator's token cannot extend its own life, so its holder is warned in time to mint another.
  if (expireTime !== undefined && expireTime - clock.wall() <= ADMIN_ENDS_SOON_MS && rankOf(call.caller) !== "other")
    call.respond?.("sallyport-token-ends", new Date(expireTime).toISOString());
}

function authorize(call: Call): void {
  if (call.method.permission === "open") return;
  // Roles can give any permission. `confirm` reads them, and decides.
  if (!hasRoles(call.caller!)) grant(call, call.caller!);
}

function hasRoles({ roles = [] }: Caller): boolean {
  return roles.length > 0;
}

/** Gives the call its access; CALLER_FORBIDDEN if the caller may not make it. */
function grant(call: Call, caller: Caller): void {
  const { method, requestId, deadline } = call;
  call.access = { caller, reach: permit(caller, method), requestId, deadline };
}

async function admit(call: Call, { admission }: PipelineDeps): Promise<void> {
  const klass = call.method.admission;
  if (klass !== "none") call.leave = await admission.enter(klass, 1, Number.POSITIVE_INFINITY);
}

async function confirm(call: Call, { callers, admission }: PipelineDeps): Promise<void> {
  const { method, caller, leave } = call;
  if (method.permission === "open" || caller?.kind !== "session") return;
  // A call without a slot takes one for this read.
  const done = leave === undefined ? await admission.enter("admin", 1, Number.POSITIVE_INFINITY) : undefined;
  call.caller = await callers.confirm(caller).finally(done);
  if (hasRoles(caller)) grant(call, call.caller);
}

function validate(call: Call): void | Promise<void> {
  return call.validate();
}

function leave(call: Call): void {
  call.leave?.();
}

function log(call: Call, { clock, called }: PipelineDeps, thrown: unknown): void {
  const { requestId, caller, method, peer } = call;
  const seconds = (clock.mono() - call.started) / 1000;
  const line = { requestId, method: method.name, actor: caller?.provenance, seconds };
  if (thrown === undefined) called({ ...line, code: "OK", level: "info" });
  else if (thrown instanceof ConnectError) called({ ...line, code: statusName(thrown), level: "info" });
  else {
    const { reason, cause } = asAppError(thrown);
    called({
      ...line,
      code: statusName(toConnectError(thrown)),
      reason,
      ...from(reason, peer.address),
      level: levelOf(reason),
      cause,
    });
  }
}

function endSpan({ span, caller }: Call, _: PipelineDeps, thrown: unknown): void {
  if (span === undefined) return;
  const reason = thrown === undefined || thrown instanceof ConnectError ? undefined : asAppError(thrown).reason;
  span.set({ reason, tokenId: caller?.tokenId });
  span.end(thrown !== undefined);
}

function auditDenial({ caller, requestId, method }: Call, { denials }: PipelineDeps, thrown: unknown): void {
  if (caller === undefined || thrown === undefined || thrown instanceof ConnectError) return;
  const { reason } = asAppError(thrown);
  if (reason === "CALLER_FORBIDDEN" || reason === "RIGHTS_EXCEEDED")
    denials.record({ caller, reach: "own", requestId }, method.name, reason);
}

/** Runs calls through the steps. An RPC enters by `gate` and `interceptor`, an HTTP endpoint by `begin` and `finish`. */
export class Pipeline {
  readonly #deps: PipelineDeps;
  readonly #checkBounds = requestValidator();

  constructor(deps: PipelineDeps) {
    this.#deps = deps;
  }

  /** The steps before the body. */
  begin(call: Call): Promise<void> {
    const span = this.#deps.tracing?.call(call.method.name, call.header("traceparent"));
    if (span !== undefined) call.span = span;
    return this.#within(call, () => this.#through(call, BEFORE_BODY, async () => {}));
  }

  /** The steps before the handler, the handler, and the endings. */
  async finish<T>(call: Call, handler: () => Promise<T>): Promise<T> {
    const result = await this.#within(call, () => this.#through(call, BEFORE_HANDLER, handler));
    this.#end(call, undefined);
    return result;
  }

  #within<T>({ span }: Call, work: () => T): T {
    return span === undefined ? work() : this.#deps.tracing!.within(span, work);
  }

  async #through<T>(call: Call, steps: readonly Step[], then: () => Promise<T>): Promise<T> {
    try {
      for (const step of steps) await step(call, this.#deps);
      return await then();
    } catch (thrown) {
      this.#end(call, thrown);
      throw thrown;
    }
  }

  #end(call: Call, thrown: unknown): void {
    for (const ending of ENDINGS) ending(call, this.#deps, thrown);
  }

  /** Runs after the headers of an RPC and before its body. */
  readonly gate = async (context: HandlerContext): Promise<void> => {
    const started = this.#deps.clock.mono();
    const left = context.timeoutMs();
    const header = (name: string) => context.requestHeader.get(name);
    const call: Call = {
      method: methodOf(context.method),
      started,
      deadline: left === undefined ? undefined : started + left,
      peer: context.values.get(peerKey),
      requestId: "",
      header,
      credential: () => header("authorization"),
      validate: () => {},
      respond: (name, value) => context.responseHeader.set(name, value),
    };
    context.values.set(callKey, call);
    await this.begin(call).catch((thrown) => {
      throw toConnectError(thrown, call.requestId);
    });
  };

  /** Runs around the handler of an RPC that passed the gate, with its decoded message. */
  readonly interceptor: Interceptor = (next) => async (req) => {
    const call = req.contextValues.get(callKey);
    if (call === undefined) throw new AppError("INTERNAL", "a call went past the gate");
    call.started = this.#deps.clock.mono(); // does not count the time in which the client sends its body
    if (!req.stream) call.validate = () => this.#checkBounds(req.method.input, req.message);
    try {
      const response = await this.finish(call, () => next(req));
      response.header.set("x-request-id", call.requestId);
      return response;
    } catch (thrown) {
      throw toConnectError(thrown, call.requestId);
    }
  };
}
