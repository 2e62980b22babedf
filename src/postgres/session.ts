import type pg from "pg";

/** The parts of the driver's connection that it does not declare. */
interface Wire {
  readonly stream: { destroy(): void };
  on(event: "parameterStatus", listener: (message: { parameterName: string; parameterValue: string }) => void): void;
}

function wireOf(client: pg.Client): Wire {
  return (client as unknown as { connection: Wire }).connection;
}

/** Ends a session and its statements immediately. `end()` would wait for a server that does not answer. */
export function destroySession(client: pg.Client): void {
  wireOf(client).stream.destroy();
}

/**
 * Returns whether the server was a standby at any time of the session. After its promotion it may still answer from an
 * earlier snapshot. Call it before the client connects. The server reports this state from version 14 on.
 */
export function standbyWatch(client: pg.Client): () => boolean {
  let standby = false;
  wireOf(client).on("parameterStatus", ({ parameterName, parameterValue }) => {
    if (parameterName === "in_hot_standby" && parameterValue === "on") standby = true;
  });
  return () => standby;
}
