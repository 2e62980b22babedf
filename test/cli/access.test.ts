import { expect, it } from "vitest";
import { AuditLog, type ListAccessEventsRequest } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { Verdict } from "../../src/gen/sallyport/v1/token_validator_pb.ts";
import { cli, peer } from "./peer.ts";

it("access list sends the filters and shows what was asked and answered", async () => {
  let sent: ListAccessEventsRequest | undefined;
  await using listener = await peer((router) =>
    router.service(AuditLog, {
      listAccessEvents: (request) => {
        sent = request;
        const who = { tokenId: "tok_1", principal: "bot:ci", verdict: Verdict.INVALID_TOKEN, reason: "revoked" };
        const what = { scopes: ["a", "b"], audience: "api", method: "GET", host: "h", path: "/p\u001b[2J" };
        const time = { seconds: 1_800_000_000n };
        return { events: [{ ...who, ...what, time, workload: "w", clientAddress: "10.0.0.1", uses: 3 }] };
      },
    }),
  );
  const filters = ["--tenant", "acme", "--principal", "bot:ci", "--token", "tok_1", "--verdict", "INVALID_TOKEN"];
  const times = ["--after", "2027-01-01", "--before", "2027-02-01"];
  const { exit, out } = await cli(["access", "list", ...filters, ...times, "--address", listener.address]);
  expect(exit).toBe(0);
  expect(sent).toMatchObject({
    tenant: "acme",
    principal: "bot:ci",
    tokenId: "tok_1",
    verdict: Verdict.INVALID_TOKEN,
    after: { seconds: BigInt(Date.UTC(2027, 0, 1) / 1000) },
    before: { seconds: BigInt(Date.UTC(2027, 1, 1) / 1000) },
    pageSize: 50,
  });
  expect(out.trimEnd().split("\n")[1]?.split(/ {2,}/)).toEqual([
    "2027-01-15T08:00:00Z",
    "tok_1",
    "bot:ci",
    "INVALID_TOKEN",
    "revoked",
    "a b",
    "api",
    "GET h/p\\u{1b}[2J",
    "w",
    "10.0.0.1",
    "3",
  ]);
});
