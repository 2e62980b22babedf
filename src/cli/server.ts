import { createClient } from "@connectrpc/connect";
import { InstanceState, RedisState, ServerInfo } from "../gen/sallyport/v1/server_info_pb.ts";
import { effectOf, fromNow, nameOf, paragraphs, record, table, timeAndDistance } from "./output.ts";
import type { AddCommands, Body } from "./session.ts";

/** `sallyport whoami` and `sallyport status`: the caller, and the instances. */
export const addServer: AddCommands = (program, run) => {
  program.command("whoami").description("show who you are to the server, and what you may do").action(run(whoami));
  program.command("status").description("show the instances and the log of changes, for operators").action(run(status));
};

const whoami: Body<object> = async (session) => {
  const response = await createClient(ServerInfo, session.admin()).getServerInfo({});
  session.answer(ServerInfo.method.getServerInfo, response, ({ version, caller, profiles }) =>
    record([
      ["caller", caller?.provenance ?? ""],
      ["kind", caller?.kind ?? ""],
      ["tenant", caller?.tenant ?? ""],
      ["principal", caller?.principal ?? ""],
      ["token", caller?.tokenId ?? ""],
      ["expires", timeAndDistance(caller?.expireTime, session.now)],
      ["permissions", caller?.permissions.join(", ") || "none"],
      [
        "may create",
        profiles
          .filter(({ canCreate }) => canCreate)
          .map(({ name }) => name)
          .join(", ") || "nothing",
      ],
      ["server", version],
    ]),
  );
};

const status: Body<object> = async (session) => {
  const response = await createClient(ServerInfo, session.admin()).listInstances({});
  session.answer(ServerInfo.method.listInstances, response, ({ instances, headPosition, settled, redis, lastWait }) =>
    paragraphs(
      table(
        ["INSTANCE", "MODE", "VERSION", "STATE", "BEHIND", "SEEN"],
        instances.map(({ id, mode, version, state, appliedPosition, seenTime }) => [
          id,
          mode,
          version,
          nameOf(InstanceState, state),
          appliedPosition < 0n
            ? "starting"
            : String(headPosition > appliedPosition ? headPosition - appliedPosition : 0n),
          fromNow(seenTime, session.now),
        ]),
      ),
      record([
        ["position", String(headPosition)],
        ["settled", settled ? "yes" : "not yet: changes wait for the end of all leases"],
        ["redis", nameOf(RedisState, redis)],
        ["last wait", effectOf(lastWait)],
      ]),
    ),
  );
};
