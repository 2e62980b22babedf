import { expect, it } from "vitest";
import { AuditLog, AuditOutcome, type ListAuditEventsRequest } from "../../src/gen/sallyport/v1/audit_log_pb.ts";
import { cli, peer } from "./peer.ts";

it("audit list sends the filters and shows actors, actions and targets", async () => {
  let sent: ListAuditEventsRequest | undefined;
  await using listener = await peer((router) =>
    router.service(AuditLog, {
      listAuditEvents: (request) => {
        sent = request;
        const metadata = { reason: "lost\u001b[2J" };
        const who = { actor: "session:ann", actorAddress: "10.0.0.1", owner: "bot:ci", target: "token:tok_1" };
        const time = { seconds: 1_800_000_000n };
        return { events: [{ ...who, time, action: "token.revoke", outcome: AuditOutcome.OK, metadata }] };
      },
    }),
  );
  const filters = ["--tenant", "acme", "--actor", "session:ann", "--action", "token.revoke", "--owner", "bot:ci"];
  const times = ["--target", "token:tok_1", "--after", "2027-01-01", "--before", "2027-02-01"];
  const { exit, out } = await cli(["audit", "list", ...filters, ...times, "--address", listener.address]);
  expect(exit).toBe(0);
  expect(sent).toMatchObject({
    tenant: "acme",
    actor: "session:ann",
    action: "token.revoke",
    owner: "bot:ci",
    target: "token:tok_1",
    after: { seconds: BigInt(Date.UTC(2027, 0, 1) / 1000) },
    before: { seconds: BigInt(Date.UTC(2027, 1, 1) / 1000) },
    pageSize: 50,
  });
  expect(out.trimEnd().split("\n")[1]?.split(/ {2,}/)).toEqual([
    "2027-01-15T08:00:00Z",
    "session:ann",
    "10.0.0.1",
    "token.revoke",
    "token:tok_1",
    "bot:ci",
    "OK",
    "reason=lost\\u{1b}[2J",
  ]);
});
