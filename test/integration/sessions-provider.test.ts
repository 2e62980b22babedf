import { afterAll, beforeAll, expect, test } from "vitest";
import { AUDIENCE } from "../sessions/issuer.ts";
import { RealProvider } from "../sessions/provider.ts";
import { run } from "../support/program.ts";
import { outcome, TestSallyport } from "../support/sallyport.ts";

/* Sessions with a real OpenID provider: discovery, its keys, its JWTs, users who log in and change their groups. */

let provider: RealProvider;
let sallyport: TestSallyport;
beforeAll(async () => {
  provider = await RealProvider.open();
  const groups = [
    { group: "staff", scopes: ["repo:*"] },
    { group: "admins", permissions: ["sallyport.admin"] },
  ];
  sallyport = await TestSallyport.start({
    config: {
      callers: { oidc: [{ name: "corp", issuer: provider.url, audiences: [AUDIENCE], tenant: "default", groups }] },
    },
  });
});
afterAll(async () => {
  await sallyport?.stop();
  await provider?.close();
});

const list = async (jwt: string) => outcome(sallyport.as(jwt).tokens.listTokens({}));

test("a user who logs in makes a token with the command line, and it works", async () => {
  provider.groups.set("ann", ["staff"]);
  const { accessToken } = await provider.login("ann");
  const { code, out, err } = await run(
    [
      "tokens",
      "create",
      "--profile",
      "pat",
      "--principal",
      "user:ann",
      "--display-name",
      "laptop",
      "--scope",
      "repo:read",
      "--quiet",
    ],
    { SALLYPORT_SESSION: accessToken, SALLYPORT_ADDRESS: sallyport.listeners.admin },
  );
  expect([code, err]).toEqual([0, ""]);
  expect(await sallyport.verdict(out.trim(), { requiredScopes: ["repo:read"] })).toBe("ALLOW");
  const { tokens } = await sallyport.as(accessToken).tokens.listTokens({});
  expect(tokens).toMatchObject([{ principal: "user:ann", createdBy: "session:ann", scopes: ["repo:read"] }]);
});

test("a user who leaves a group is refused after the next login; a token that it made stays", async () => {
  provider.groups.set("bob", ["admins", "staff"]);
  const before = await provider.login("bob");
  const by = sallyport.as(before.accessToken);
  expect(await outcome(by.principals.listPrincipals({}))).toBe("OK");
  const pat = await by.tokens.createToken({
    profile: "pat",
    principal: "user:bob",
    displayName: "x",
    scopes: ["repo:a"],
  });
  provider.groups.set("bob", ["staff"]);
  const after = await provider.login("bob");
  expect(await outcome(sallyport.as(after.accessToken).principals.listPrincipals({}))).toBe("CALLER_FORBIDDEN");
  expect(await list(after.accessToken)).toBe("OK");
  provider.groups.set("bob", []);
  expect(await list((await provider.login("bob")).accessToken)).toBe("CALLER_FORBIDDEN");
  // Groups are as fresh as the JWT, and tokens do not follow them.
  expect(await outcome(by.principals.listPrincipals({}))).toBe("OK");
  expect(await sallyport.verdict(pat.tokenString)).toBe("ALLOW");
});

test("an ID token, and an access token for another resource, are no sessions", async () => {
  provider.groups.set("carl", ["admins"]);
  const { accessToken, idToken } = await provider.login("carl");
  expect(await list(accessToken)).toBe("OK");
  expect(await list(idToken)).toBe("CALLER_UNAUTHENTICATED");
  expect(await list((await provider.login("carl", "other")).accessToken)).toBe("CALLER_UNAUTHENTICATED");
  const [header, , signature] = accessToken.split(".");
  const claims = JSON.parse(Buffer.from(accessToken.split(".")[1]!, "base64url").toString()) as object;
  const forged = Buffer.from(JSON.stringify({ ...claims, sub: "root" })).toString("base64url");
  expect(await list(`${header}.${forged}.${signature}`)).toBe("CALLER_UNAUTHENTICATED");
});
