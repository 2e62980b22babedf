import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { isOperator, permissionsOf } from "../domain/caller.ts";
import type { ServerInfo as ServerInfoDesc } from "../gen/sallyport/v1/server_info_pb.ts";
import { canCreate, type ServerInfo } from "../management/server-info.ts";
import { accessOf } from "../rpc/call.ts";
import { durationMessage, effectMessage, instanceMessage, redisState, timestamp } from "../rpc/convert.ts";

const MOST_INSTANCES = 1000;

/** ServerInfo: the caller itself, and for operators the instances. */
export function serverInfo(info: ServerInfo): ServiceImpl<typeof ServerInfoDesc> {
  return {
    async getServerInfo(_request, context) {
      const { caller } = accessOf(context);
      const { provenance, kind, tenant, principal, tokenId = "", expireTime } = caller;
      return {
        version: info.version,
        serverTime: timestampFromMs(Math.floor(info.now())),
        caller: {
          provenance,
          kind,
          tenant,
          tenants: isOperator(caller) ? ["-"] : [...(caller.tenants ?? (tenant === "" ? [] : [tenant]))],
          principal,
          permissions: permissionsOf(caller),
          tokenId,
          expireTime: timestamp(expireTime),
        },
        profiles: [...info.profiles.values()].map((profile) => ({
          name: profile.name,
          prefix: profile.prefix,
          principalTypes: [...profile.principals],
          maxTtl: durationMessage(profile.maxTtl),
          defaultTtl: durationMessage(profile.defaultTtl),
          allowNoExpiry: profile.allowNoExpiry,
          allowEmptyName: profile.allowEmptyName,
          selfRotate: profile.selfRotate !== false,
          canCreate: canCreate(caller, profile),
        })),
      };
    },

    async listInstances(_request, context) {
      const { position, settled, rows } = await info.registry.instances(MOST_INSTANCES, accessOf(context));
      const last = info.lastWait();
      return {
        instances: rows.map(instanceMessage),
        headPosition: BigInt(position),
        settled,
        redis: redisState(info.redis()),
        lastWait: last && effectMessage(last),
      };
    },
  };
}
