import { create, fromBinary, fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import type { ConnectRouter } from "@connectrpc/connect";
import {
  HealthCheckRequestSchema,
  type HealthCheckResponse,
  HealthCheckResponseSchema,
  Health as HealthDesc,
  HealthCheckResponse_ServingStatus as Status,
} from "../gen/grpc/health/v1/health_pb.ts";
import { wireError } from "./transport-errors.ts";

/**
 * The serving status by grpc.health.v1, for the services of one listener and for the whole listener (`""`). It starts
 * as NOT_SERVING.
 */
export class Health {
  readonly #names: ReadonlySet<string>;
  readonly #waiting = new Set<() => void>();
  /** Called at each poll. */
  readonly polled: () => void;
  #serving = false;

  constructor(services: readonly string[], polled: () => void = () => {}) {
    this.#names = new Set(["", ...services]);
    this.polled = polled;
  }

  get serving(): boolean {
    return this.#serving;
  }

  /** True if a Watch is open. It learns of a change at once. */
  get watched(): boolean {
    return this.#waiting.size > 0;
  }

  get names(): ReadonlySet<string> {
    return this.#names;
  }

  /** Sets the status and notifies every Watch at once. A drain calls `set(false)` before the listeners close. */
  set(serving: boolean): void {
    if (this.#serving === serving) return;
    this.#serving = serving;
    for (const wake of [...this.#waiting]) wake();
  }

  /** SERVICE_UNKNOWN for a name that the listener does not serve. */
  statusOf(service: string): Status {
    if (!this.#names.has(service)) return Status.SERVICE_UNKNOWN;
    return this.#serving ? Status.SERVING : Status.NOT_SERVING;
  }

  /** Resolves at the next change, or when the signal aborts. */
  changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake);
      if (signal.aborted) wake();
    });
  }
}

/** Adds grpc.health.v1.Health: Check, List and Watch, or, for a listener without streams, Check alone. */
export function addHealth(router: ConnectRouter, health: Health, offer: "check" | "all"): void {
  const now = (service: string): HealthCheckResponse =>
    create(HealthCheckResponseSchema, { status: health.statusOf(service) });
  router.service(HealthDesc, {
    check({ service }) {
      health.polled();
      const answer = now(service);
      if (answer.status === Status.SERVICE_UNKNOWN) throw wireError("unknown_service");
      return answer;
    },
    ...(offer === "all" && {
      list: () => ({ statuses: Object.fromEntries([...health.names].map((name) => [name, now(name)])) }),
      watch: ({ service }, { signal }) => watch(health, now, service, signal),
    }),
  });
}

/** Sends the status at once and then each change, until the client leaves or the listener drains. */
async function* watch(
  health: Health,
  now: (service: string) => HealthCheckResponse,
  service: string,
  signal: AbortSignal,
): AsyncGenerator<HealthCheckResponse> {
  let last: Status | undefined;
  do {
    const change = health.changed(signal); // before the status is read, so that no change is missed
    const current = now(service);
    if (current.status !== last) yield current;
    last = current.status;
    await change;
  } while (!signal.aborted);
  if (health.statusOf(service) !== last) yield now(service);
}

/**
 * Check on bytes, for the listener without streams. UNDECODABLE for malformed bytes; NOT_FOUND for an unknown service.
 */
export function healthBytes(health: Health, message: Uint8Array, form: "binary" | "json"): Uint8Array {
  health.polled();
  const { service } = requestOf(message, form);
  const status = health.statusOf(service);
  if (status === Status.SERVICE_UNKNOWN) throw wireError("unknown_service");
  const response = create(HealthCheckResponseSchema, { status });
  return form === "binary"
    ? toBinary(HealthCheckResponseSchema, response)
    : Buffer.from(JSON.stringify(toJson(HealthCheckResponseSchema, response)));
}

function requestOf(message: Uint8Array, form: "binary" | "json") {
  try {
    if (form === "binary") return fromBinary(HealthCheckRequestSchema, message);
    return fromJson(HealthCheckRequestSchema, JSON.parse(Buffer.from(message).toString("utf8")));
  } catch {
    throw wireError("undecodable");
  }
}
