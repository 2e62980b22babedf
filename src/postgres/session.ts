import type pg from "pg";

/** The parts of the driver's connection that it does not declare. */
interface Wire {
  readonly stream: { destroy(): void };
  on(event: "parameterStatus", listener: (message: { parameterName: string; parameterValue: string }) => void): void;
}

function wireOf(client: pg.Client): Wire {
  return (client as unknown as { connection: Wire }).connection;
}

/** Ends a session at once, with all that is under way on it. `end()` would wait for a server that does not answer. */
export function destroySession(client: pg.Client): void {
  wireOf(client).stream.destroy();
}

/**
 * To be called before it connects. Tells whether its server was a standby at any time of the session: one that has been
 * promoted since may still answer from a snapshot that it took before. The server says so by itself, from version 14 on.
 */
export function standbyWatch(client: pg.Client): () => boolean {
  let standby = false;
  wireOf(client).on("parameterStatus", ({ parameterName, parameterValue }) => {
    if (parameterName === "in_hot_standby" && parameterValue === "on") standby = true;
  });
  return () => standby;
}
