import pg from "pg";
import { StartError } from "../domain/start-error.ts";
import { connectionSettings } from "./pool.ts";
import { sqlstate } from "./sqlstate.ts";

const PROTOCOL_VIOLATION = "08P01";
/** No server's default. A session without it did not get its startup options. Milliseconds. */
const MARK_MS = 54_321;
const ADVICE = "give the way past it as database.direct_url";

/**
 * Refuses a direct URL that leads through a pooler. There, startup options, LISTEN and advisory locks would be lost or
 * stay behind for other clients. The first use of the database reports every other fault.
 */
export async function checkDirectSession(url: string): Promise<void> {
  const client = new pg.Client(connectionSettings(url, "sallyport-check", false, MARK_MS));
  client.on("error", () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ mark: string }>("select current_setting('statement_timeout') as mark");
    if (rows[0]?.mark === `${MARK_MS}ms`) return;
    throw new StartError(
      "database_unfit",
      `the database's sessions do not take startup options: a pooler is in between; ${ADVICE}`,
    );
  } catch (error) {
    if (error instanceof StartError) throw error;
    if (sqlstate(error) === PROTOCOL_VIOLATION && /startup parameter/.test((error as Error).message)) {
      throw new StartError(
        "database_unfit",
        `the database's sessions do not take startup options: a pooler is in between; ${ADVICE}`,
      );
    }
  } finally {
    await client.end().catch(() => {});
  }
}
