import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { CheckRequestSchema, CheckResponseSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import type { History, Subject } from "./history.ts";
import type { Instance } from "./instance.ts";
import { ALLOW, type HttpReply, INSUFFICIENT_SCOPE, INVALID_TOKEN, UNDETERMINED } from "./wire.ts";

/** A way to learn if a token is valid. All of them make the same promise. */
export interface Asker {
  readonly name: string;
  /** True if it judges only the token, not its scopes and tenants. */
  readonly tokenAlone?: boolean;
  /** The verdict by its number. Rejects if there is none: no answer, or one about something else. */
  ask(at: Instance, subject: Subject): Promise<number>;
}

export const SCOPE = "history:read";
/** The policy that requires it. */
export const SCOPED = "scoped";
/** The policy that requires a tenant, and the header that names it. */
export const TENANTED = "tenanted";
export const TENANT_HEADER = "x-history-tenant";

const ANSWER_MS = 20_000;
const CLIENT = "192.0.2.7";
const VALIDATE = "/sallyport.v1.TokenValidator/ValidateToken";
const CHECK = "/envoy.service.auth.v3.Authorization/Check";

/** A further method is one more row. */
export const ASKERS: readonly Asker[] = [
  { name: "ValidateToken", ask: (at, { asked }) => at.data.validate(asked, ANSWER_MS) },
  { name: "BatchValidateTokens", ask: async (at, { asked }) => (await at.data.batch([asked], ANSWER_MS))[0]! },
  {
    name: "Connect JSON",
    async ask(at, { tokenString, scope, tenant }) {
      const body = JSON.stringify({ tokenString, tenant, requiredScopes: scope === undefined ? [] : [scope] });
      const reply = await at.http.ask("POST", VALIDATE, { "content-type": "application/json" }, body, ANSWER_MS);
      if (reply.status !== 200) throw new Error(`Connect answered ${reply.status}`);
      return verdictNamed((JSON.parse(reply.body.toString()) as { verdict: string }).verdict);
    },
  },
  {
    name: "Check",
    async ask(at, subject) {
      const reply = fromBinary(CheckResponseSchema, await at.data.unary(CHECK, checkOf(subject), ANSWER_MS));
      const verdict = verdictNamed(`VERDICT_${String(reply.dynamicMetadata?.["verdict"])}`);
      const allowed = reply.status?.code === 0 && reply.httpResponse.case === "okResponse";
      // The field that Envoy obeys decides; the rest only gives the reason.
      if (allowed || verdict !== ALLOW) return allowed ? ALLOW : verdict;
      throw new Error("Check says ALLOW and denies");
    },
  },
  {
    name: "HTTP check, envoy",
    async ask(at, subject) {
      const headers = {
        ":method": "GET",
        ":path": `/v1/check/envoy/${policyFor(subject)}/any/path`,
        ...credentialOf(subject),
        "x-envoy-external-address": CLIENT,
      };
      return verdictOfCheck(await at.data.exchange(headers, Buffer.alloc(0), ANSWER_MS));
    },
  },
  httpCheck("forwarded", {
    "x-forwarded-method": "GET",
    "x-forwarded-uri": "/any/path",
    "x-forwarded-for": CLIENT,
  }),
  httpCheck("original", { "x-original-method": "GET", "x-original-uri": "/any/path", "x-real-ip": CLIENT }),
  {
    name: "introspection",
    async ask(at, { tokenString, scope, tenant }) {
      const type = { "content-type": "application/x-www-form-urlencoded" };
      const body = `token=${tokenString}${tenant === undefined ? "" : `&tenant=${tenant}`}`;
      const reply = await at.http.ask("POST", "/v1/introspect", type, body, ANSWER_MS);
      if (reply.status === 503) return UNDETERMINED;
      if (reply.status !== 200) throw new Error(`introspection answered ${reply.status}`);
      const answer = JSON.parse(reply.body.toString()) as { active: boolean; scope?: string };
      if (!answer.active) return INVALID_TOKEN;
      return scope === undefined || answer.scope?.split(" ").includes(scope) ? ALLOW : INSUFFICIENT_SCOPE;
    },
  },
  {
    name: "caller on the admin listener",
    tokenAlone: true,
    async ask(at, { id, tokenString }) {
      const headers = { authorization: `Bearer ${tokenString}` };
      try {
        await at.tokens.getToken({ id }, { headers, timeoutMs: ANSWER_MS });
        return ALLOW;
      } catch (error) {
        const { code } = ConnectError.from(error);
        if (code === Code.Unauthenticated) return INVALID_TOKEN;
        if (code === Code.Unavailable) return UNDETERMINED;
        // A refusal for another reason means that the caller was authenticated.
        if (code === Code.NotFound || code === Code.PermissionDenied) return ALLOW;
        throw error;
      }
    },
  },
];

/** Asks, and hands the answer to the checker. Never rejects. */
export async function askBy(asker: Asker, history: History, at: Instance, subject: Subject): Promise<void> {
  if (at.ended || (asker.tokenAlone && (subject.scope ?? subject.tenant) !== undefined)) return;
  const start = performance.now();
  const verdict = await asker.ask(at, subject).catch(() => undefined);
  if (verdict === undefined) history.unanswered();
  else history.answered(subject, `${at.name}#${at.pid}`, start, performance.now(), verdict, asker.name);
}

/** This many of them, each a different one. */
export function someAskers(count: number): Asker[] {
  const first = Math.floor(Math.random() * ASKERS.length);
  // A step that is coprime to their number, or at least never the number itself.
  const step = 1 + Math.floor(Math.random() * (ASKERS.length - 1));
  return Array.from({ length: count }, (_, i) => ASKERS[(first + i * step) % ASKERS.length]!);
}

function httpCheck(family: string, said: Record<string, string>): Asker {
  return {
    name: `HTTP check, ${family}`,
    async ask(at, subject) {
      const headers = { ...said, ...credentialOf(subject) };
      return verdictOfCheck(
        await at.http.ask("GET", `/v1/check/${family}/${policyFor(subject)}`, headers, "", ANSWER_MS),
      );
    },
  };
}

function policyFor({ scope, tenant }: Subject): string {
  if (tenant !== undefined) return TENANTED;
  return scope === undefined ? "default" : SCOPED;
}

const credentialOf = ({ tokenString, tenant }: Subject) => ({
  authorization: `Bearer ${tokenString}`,
  ...(tenant !== undefined && { [TENANT_HEADER]: tenant }),
});

/** Proxies that cannot receive every status get the true one in a header. */
function verdictOfCheck({ status, headers }: HttpReply): number {
  if (status === 200) return ALLOW;
  switch (Number(headers["x-auth-status"] ?? status)) {
    case 401:
      return INVALID_TOKEN;
    case 403:
      return INSUFFICIENT_SCOPE;
    case 503:
      return UNDETERMINED;
    default:
      throw new Error(`the HTTP check answered ${status}`);
  }
}

function verdictNamed(name: string): number {
  const verdict = Verdict[name.replace(/^VERDICT_/, "") as keyof typeof Verdict];
  if (typeof verdict !== "number") throw new Error("an answer without a verdict");
  return verdict;
}

const checks = new WeakMap<Subject, Buffer>();

function checkOf(subject: Subject): Buffer {
  let bytes = checks.get(subject);
  if (bytes === undefined) {
    const { tokenString, scope, tenant } = subject;
    const policy = scope === undefined ? "default" : SCOPED;
    const message = create(CheckRequestSchema, {
      attributes: {
        source: { address: { address: { case: "socketAddress", value: { address: CLIENT } } } },
        request: {
          http: { method: "GET", path: "/any/path", host: "any", headers: { authorization: `Bearer ${tokenString}` } },
        },
        contextExtensions: { policy, ...(tenant !== undefined && { tenant }) },
      },
    });
    checks.set(subject, (bytes = Buffer.from(toBinary(CheckRequestSchema, message))));
  }
  return bytes;
}
