import { exportJWK, generateKeyPair, SignJWT } from "jose";
import type { SessionIssuer } from "../src/domain/session.ts";
import { Sessions } from "../src/sessions/sessions.ts";

/*
 * The cost of a session: from the JWT to the caller, without the read of states. `npm run -s bench:sessions`. Prints
 * milliseconds per verification, one at a time, for each algorithm.
 */

const CALLS = 5_000;
const WARM_UP = 500;

const issuer: SessionIssuer = {
  name: "bench",
  issuer: "https://issuer.example",
  jwksUri: "https://issuer.example/keys",
  caFile: undefined,
  audiences: ["sallyport"],
  algorithms: ["RS256", "ES256", "EdDSA"],
  types: ["at+jwt"],
  require: { kind: "access" },
  maxAge: 3_600_000,
  clockSkew: 30_000,
  tenant: "acme",
  tenantClaim: undefined,
  tenants: {},
  principalClaim: "sub",
  subPrefix: "",
  foreignPrefixes: [],
  groupsClaim: "groups",
  groups: [{ group: "g7", tenant: undefined, permissions: ["sallyport.admin"], scopes: [], roles: [] }],
};

async function measured(alg: string): Promise<{ p50: number; p99: number; mean: number }> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { modulusLength: 2048, extractable: true });
  const keys = { keys: [{ ...(await exportJWK(publicKey)), kid: "k", use: "sig", alg }] };
  const sessions = new Sessions({
    issuers: [issuer],
    states: { callerStates: async () => ({ inactiveTenants: [], inactivePrincipals: [], roleScopes: [] }) },
    clock: { mono: () => performance.now() + 1e6, wall: () => Date.now() },
    fetchDocument: async () => keys,
    events: { trouble: () => {}, sessionRefused: (reason) => process.stderr.write(`refused: ${reason}\n`) },
  });
  const groups = Array.from({ length: 20 }, (_, i) => `g${i}`);
  const jwt = await new SignJWT({ kind: "access", groups, email: "ann@example.com" })
    .setProtectedHeader({ alg, typ: "at+jwt", kid: "k" })
    .setIssuer(issuer.issuer)
    .setAudience("sallyport")
    .setSubject("ann")
    .setIssuedAt()
    .setExpirationTime("10m")
    .sign(privateKey);
  const times: number[] = [];
  for (let i = 0; i < WARM_UP + CALLS; i++) {
    const before = performance.now();
    await sessions.authenticate(jwt, null);
    if (i >= WARM_UP) times.push(performance.now() - before);
  }
  times.sort((a, b) => a - b);
  const at = (share: number) => Number(times[Math.floor(share * times.length)]!.toFixed(3));
  return { p50: at(0.5), p99: at(0.99), mean: Number((times.reduce((a, b) => a + b) / times.length).toFixed(3)) };
}

for (const alg of ["RS256", "ES256", "EdDSA"]) {
  process.stdout.write(`${JSON.stringify({ alg, ...(await measured(alg)) })}\n`);
}
