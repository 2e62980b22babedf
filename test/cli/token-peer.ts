import type { ServiceImpl } from "@connectrpc/connect";
import { EffectMode } from "../../src/gen/sallyport/v1/effect_pb.ts";
import { TokenAdmin, TokenState } from "../../src/gen/sallyport/v1/token_admin_pb.ts";
import { cli, fromNow, peer } from "./peer.ts";

/** A string in the form of a token string, from no server. */
export const STRING = `sp_pat_1x7Kd02Qa${"s".repeat(43)}abcdef`;

export const token = {
  id: "tok_1",
  hint: "sp_pat_1x7Kd02Qa",
  principal: "user:ann",
  displayName: "laptop",
  profile: "pat",
  state: TokenState.ACTIVE,
  expireTime: fromNow(90 * 86_400_000 + 60_000),
};

export const effect = { mode: EffectMode.ACKED, position: 42n, waited: { seconds: 0n, nanos: 12_000_000 } };
export const IN_FORCE = "in force everywhere after 12 ms (ACKED), position 42";

/** Runs one command against a listener with these methods. */
export async function against(impl: Partial<ServiceImpl<typeof TokenAdmin>>, argv: string[], stdin?: string) {
  await using listener = await peer((router) => router.service(TokenAdmin, impl));
  return { ...(await cli([...argv, "--address", listener.address], { stdin })), headers: listener.headers };
}
