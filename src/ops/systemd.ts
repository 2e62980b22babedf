import { execFile } from "node:child_process";
import { promisify } from "node:util";

/** systemd-notify waits until systemd has read the message. If it takes longer than this, something is wrong there. */
const WAIT_MS = 10_000;

/**
 * Reports the state of a `Type=notify` unit to systemd (sd_notify(3)). Does nothing without NOTIFY_SOCKET. Node has no
 * datagram unix sockets, so systemd's own program sends the message, and the unit says `NotifyAccess=all` for that
 * reason. Rejects with the reason if the message could not be sent: the caller logs it and continues, and systemd's
 * start timeout decides.
 */
export async function notifySystemd(state: "READY=1" | "STOPPING=1", env: NodeJS.ProcessEnv): Promise<void> {
  if (!env["NOTIFY_SOCKET"]) return;
  try {
    await promisify(execFile)("systemd-notify", [state], { timeout: WAIT_MS, env });
  } catch (error) {
    throw new Error(`systemd was not sent ${state}: ${(error as Error).message.split("\n")[0]}`);
  }
}
