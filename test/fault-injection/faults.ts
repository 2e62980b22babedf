import { CLOCK_FAULTS } from "./clock-faults.ts";
import { CUT_SWEEP } from "./cut-sweep.ts";
import { INSTANCE_FAULTS } from "./instance-faults.ts";
import { NETWORK_FAULTS } from "./network-faults.ts";
import { OVERLOAD } from "./overload.ts";
import { POSTGRES_FAULTS } from "./postgres-faults.ts";
import { REDIS_FAULTS } from "./redis-faults.ts";
import { RESTORE_FAULTS } from "./restore-faults.ts";
import type { Fault } from "./round.ts";
import { VOLUME_COPY } from "./volume-copy.ts";

/**
 * The order of a single run of each. The standby that one PostgreSQL fault needs is gone before the volume is restored.
 */
export const FAULTS: readonly Fault[] = [
  ...INSTANCE_FAULTS,
  ...CLOCK_FAULTS,
  OVERLOAD,
  ...NETWORK_FAULTS,
  CUT_SWEEP,
  ...REDIS_FAULTS,
  ...POSTGRES_FAULTS,
  VOLUME_COPY,
  ...RESTORE_FAULTS,
];
