import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { folder } from "../support/program.ts";
import { freePort } from "../support/redis.ts";
import { AUDIENCE } from "./issuer.ts";
import { CLIENT, RealProvider } from "./provider.ts";

/**
 * Two real issuers, and the settings of a server whose console offers both. They are on `localhost` and the server on
 * `127.0.0.1`, so for a browser they are different sites.
 */
export class SignInServers {
  readonly corp: RealProvider;
  readonly other: RealProvider;
  readonly config: Record<string, unknown>;
  readonly #place = folder();

  private constructor(corp: RealProvider, other: RealProvider, port: number) {
    this.corp = corp;
    this.other = other;
    const secret = join(this.#place.path, "client-secret");
    writeFileSync(secret, `${CLIENT.client_secret}\n`, { mode: 0o600 });
    const issuer = (name: string, { url }: RealProvider, groups: object[]) => ({
      ...{ name, issuer: url, audiences: [AUDIENCE], sub_prefix: name === "corp" ? "" : `${name}/`, groups },
    });
    const group = (of: string, tenant: string, permissions: string[]) => ({ group: of, tenant, permissions });
    const entry = (caller: string, label: string) => ({
      ...{ caller, label, client_id: CLIENT.client_id, client_secret_file: secret, scopes: ["openid", "tokens"] },
    });
    this.config = {
      listeners: {
        data: { bind: "127.0.0.1:0" },
        admin: { bind: `127.0.0.1:${port}` },
        ops: { bind: "127.0.0.1:0" },
      },
      callers: {
        oidc: [
          issuer("corp", corp, [
            group("staff", "default", []),
            group("admins", "default", ["sallyport.admin"]),
            group("blue", "blue", []),
          ]),
          issuer("other", other, [group("staff", "default", [])]),
        ],
      },
      console: {
        public_url: `http://127.0.0.1:${port}`,
        oidc: [entry("corp", "Corp"), entry("other", "Other Ltd")],
      },
    };
  }

  static async open(): Promise<SignInServers> {
    const port = await freePort();
    const about = { host: "localhost", callbacks: [`http://127.0.0.1:${port}/console/auth/callback`] };
    const [corp, other] = await Promise.all([RealProvider.open(about), RealProvider.open(about)]);
    return new SignInServers(corp, other, port);
  }

  async close(): Promise<void> {
    await Promise.all([this.corp.close(), this.other.close()]);
    this.#place.remove();
  }
}
