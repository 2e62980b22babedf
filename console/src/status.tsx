import { InstanceState, RedisState } from "../gen/sallyport/v1/server_info_pb.ts";
import { useLoad } from "./load.ts";
import { EffectText, Reading, When } from "./parts.tsx";
import { Mark } from "./rows.tsx";
import { visible } from "./text.ts";
import { info } from "./wire.ts";

const REDIS: Readonly<Record<number, string>> = {
  [RedisState.OFF]: "not configured",
  [RedisState.READY]: "answers",
  [RedisState.AWAY]: "does not answer; answers stay right without it",
};

export function Status() {
  const status = useLoad("status", (signal) => info.listInstances({}, { signal }));
  return (
    <>
      <div class="title">
        <h1>Status</h1>
        <div class="actions">
          <button type="button" onClick={status.again}>
            Read again
          </button>
        </div>
      </div>
      <Reading of={status}>
        {({ instances, headPosition, settled, redis, lastWait }) => (
          <div class="stack">
            <section class="card" aria-labelledby="log">
              <h2 id="log">Log of changes</h2>
              <dl class="facts">
                <div>
                  <dt>Position</dt>
                  <dd>{headPosition.toLocaleString("en")}</dd>
                </div>
                <div>
                  <dt>Settled</dt>
                  <dd>{settled ? "yes" : "not yet: changes wait for the end of all leases"}</dd>
                </div>
                <div>
                  <dt>Redis</dt>
                  <dd>{REDIS[redis]}</dd>
                </div>
                <div>
                  <dt>Last change</dt>
                  <dd>{lastWait === undefined ? "none since the start" : <EffectText of={lastWait} verb="Done" />}</dd>
                </div>
              </dl>
            </section>
            <div class="card">
              <div class="scroll" role="region" aria-label="Instances" tabindex={0}>
                <table role="table">
                  <caption class="hidden">Instances</caption>
                  <thead role="rowgroup">
                    <tr role="row">
                      {["Instance", "Mode", "Version", "State", "Behind", "Seen"].map((name) => (
                        <th key={name} role="columnheader" scope="col">
                          {name}
                        </th>
                      ))}
                    </tr>
                  </thead>
                  <tbody role="rowgroup">
                    {instances.map((row) => (
                      <tr key={row.id} role="row">
                        <td role="cell">
                          <code>{row.id}</code>
                        </td>
                        <td role="cell" data-name="Mode">
                          {visible(row.mode) || "unknown"}
                        </td>
                        <td role="cell" data-name="Version">
                          {visible(row.version) || "unknown"}
                        </td>
                        <td role="cell" data-name="State">
                          <Mark of={row.state === InstanceState.LIVE ? ["Live", "active"] : ["Reaped", "revoked"]} />
                        </td>
                        <td role="cell" data-name="Behind">
                          {row.appliedPosition < 0n
                            ? "starting"
                            : (headPosition > row.appliedPosition
                                ? headPosition - row.appliedPosition
                                : 0n
                              ).toLocaleString("en")}
                        </td>
                        <td role="cell" data-name="Seen">
                          <When at={row.seenTime} />
                        </td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            </div>
          </div>
        )}
      </Reading>
    </>
  );
}
