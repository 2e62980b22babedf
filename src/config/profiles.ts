import { BUILT_IN_PROFILES, type Profile } from "../domain/profile.ts";
import type { Config } from "./schema.ts";

/** The built-in profiles with the changes of the configuration, and the operator's own profiles. */
export function profilesOf(config: Pick<Config, "profiles">): ReadonlyMap<string, Profile> {
  const profiles = new Map(BUILT_IN_PROFILES.map((profile) => [profile.name, profile]));
  for (const [name, set] of Object.entries(config.profiles)) {
    const base = profiles.get(name) ?? { ...BUILT_IN_PROFILES[0]!, name, prefix: `sp_${name.replaceAll("-", "_")}` };
    profiles.set(name, {
      ...base,
      ...(set.prefix !== undefined && { prefix: set.prefix }),
      ...(set.principals !== undefined && { principals: set.principals }),
      ...(set.max_ttl !== undefined && { maxTtl: set.max_ttl }),
      ...(set.default_ttl !== undefined && { defaultTtl: set.default_ttl }),
      ...(set.allow_no_expiry !== undefined && { allowNoExpiry: set.allow_no_expiry }),
      ...(set.scope_ceilings !== undefined && { scopeCeilings: { ...base.scopeCeilings, ...set.scope_ceilings } }),
      ...(set.minted_by !== undefined && { mintedBy: set.minted_by }),
      ...(set.self_rotate !== undefined && { selfRotate: set.self_rotate }),
      ...(set.max_live_per_principal !== undefined && { maxLivePerPrincipal: set.max_live_per_principal }),
      ...(set.allow_empty_name !== undefined && { allowEmptyName: set.allow_empty_name }),
      ...(set.on_reuse !== undefined && { onReuse: set.on_reuse }),
      ...(set.format !== undefined && { format: set.format }),
      ...(set.alg !== undefined && { alg: set.alg }),
      ...(set.access_audit !== undefined && { accessAudit: set.access_audit }),
      ...(set.access_audit_sample !== undefined && { accessAuditSample: set.access_audit_sample }),
    });
  }
  return profiles;
}
