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

/** In the order in which they are run once: the standby that one of PostgreSQL's needs is gone before the volume goes back. */
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
