import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { TestSallyport } from "../support/sallyport.ts";

const SIGN_IN_MS = 10_000;

/** Chromium: `CHROMIUM`, or a program of that name in PATH. Undefined if there is none. */
export const CHROMIUM = process.env["CHROMIUM"] ?? inPath(["chromium", "chromium-browser", "google-chrome"]);

function inPath(names: readonly string[]): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders.flatMap((folder) => names.map((name) => join(folder, name))).find(isProgram);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export interface View {
  readonly page: Page;
  readonly context: BrowserContext;
  /** What the page reported: faults of scripts, and violations of its policy. */
  readonly faults: readonly string[];
}

/** A real server and a real browser. */
export class Console implements AsyncDisposable {
  readonly sallyport: TestSallyport;
  readonly browser: Browser;

  private constructor(sallyport: TestSallyport, browser: Browser) {
    this.sallyport = sallyport;
    this.browser = browser;
  }

  static async start(config: Record<string, unknown> = {}): Promise<Console> {
    // Chromium would keep a page that a test answered by hand away from loopback, whatever the page's own policy says.
    const args = ["--disable-features=LocalNetworkAccessChecks"];
    if (process.getuid?.() === 0) args.push("--no-sandbox");
    const [sallyport, browser] = await Promise.all([
      TestSallyport.start({ config }),
      chromium.launch({ executablePath: CHROMIUM!, args }),
    ]);
    return new Console(sallyport, browser);
  }

  get url(): string {
    return `${this.sallyport.listeners.admin}/console/`;
  }

  async open(options: { dark?: boolean; width?: number; forced?: boolean; at?: string } = {}): Promise<View> {
    const context = await this.browser.newContext({
      viewport: { width: options.width ?? 1280, height: 800 },
      colorScheme: options.dark === true ? "dark" : "light",
      forcedColors: options.forced === true ? "active" : "none",
      acceptDownloads: true,
      permissions: ["clipboard-read", "clipboard-write"],
      timezoneId: "Europe/Berlin",
    });
    const page = await context.newPage();
    const faults: string[] = [];
    page.on("pageerror", (error) => faults.push(String(error)));
    page.on("console", (message) => {
      // The network's own reports of refused calls are not faults of the page.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource"))
        faults.push(message.text());
    });
    await page.goto(`${this.url}${options.at ?? ""}`);
    await page.getByRole("heading", { name: "Sign in" }).waitFor();
    return { page, context, faults };
  }

  /** Tries again, as a person would: a server that has just started on a busy machine may refuse its first call. */
  async signIn(page: Page, token = this.sallyport.adminToken): Promise<void> {
    for (let left = 2; ; left--) {
      await page.getByLabel("Token").fill(token);
      await page.getByRole("button", { name: "Sign in with a token" }).click();
      const signedIn = page.getByRole("button", { name: "Sign out" }).waitFor({ timeout: SIGN_IN_MS });
      const failure = await signedIn.catch((error: Error) => error);
      if (!(failure instanceof Error)) return;
      if (left === 0) throw failure;
    }
  }

  /** Opens and signs in. */
  async signedIn(options: Parameters<Console["open"]>[0] = {}, token?: string): Promise<View> {
    const view = await this.open(options);
    await this.signIn(view.page, token);
    return view;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.browser.close();
    await this.sallyport.stop();
  }
}

/** The tokens and principals that most suites look at. */
export async function populate({ sallyport }: Console) {
  const day = 86_400n;
  for (const name of ["bot:ci-runner", "bot:terraform", "service:billing", "service:grafana"]) {
    await sallyport.registered(name);
  }
  const scopes = ["repo:read", "image:push", "deploy:*"];
  const make = (profile: string, principal: string, displayName: string, more: object = {}) =>
    sallyport.createToken({ profile, principal, displayName, scopes: ["repo:read"], ...more });
  const ttl = (days: bigint) => ({ lifetime: { case: "ttl" as const, value: { seconds: days * day, nanos: 0 } } });
  const soon = await make("pat", "user:ann", "Ann’s laptop", ttl(3n));
  const never = await make("svc", "service:grafana", "grafana reader", {
    scopes: ["metrics:read"],
    lifetime: { case: "noExpiry", value: true },
  });
  await make("svc", "service:billing", "billing export", { scopes: ["ledger:read", "report:write"], ...ttl(330n) });
  const off = await make("bot", "bot:terraform", "old terraform", { scopes: ["infra:*"] });
  await sallyport.admin.tokens.updateToken({
    token: { id: off.id, disabled: true },
    updateMask: { paths: ["disabled"] },
  });
  const gone = await make("pat", "user:ben", "Ben’s script");
  await sallyport.admin.tokens.revokeToken({ target: { case: "id", value: gone.id }, reason: "left the team" });
  const ci = await make("bot", "bot:ci-runner", "ci deploy", { scopes, allowedCidrs: ["10.4.0.0/16"] });
  const rotated = await sallyport.admin.tokens.rotateToken({ id: ci.id, overlap: { seconds: 2n * day, nanos: 0 } });
  await sallyport.admin.roles.createRole({
    role: { name: "deployer", description: "For the deploy jobs", scopes: ["image:push", "deploy:*"] },
  });
  await sallyport.admin.roles.createRole({
    role: { name: "token-admin", scopes: ["sallyport.tokens.read"], administrative: true },
  });
  const holder = await make("pat", "user:dan", "Dan’s deploys", { roles: ["deployer"] });
  return { holder, soon, never, off, gone, ci, rotated: rotated.token! };
}

/** Goes to a view, and waits until everything on it was read. */
export async function view(page: Page, hash: string): Promise<void> {
  await page.evaluate(`location.hash = ${JSON.stringify(hash)}`);
  await settled(page);
}

export async function settled(page: Page): Promise<void> {
  // What is read begins after the next paint.
  await page.evaluate(
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))",
  );
  await page.waitForLoadState("networkidle");
  const skeleton = page.locator(".skeleton");
  while ((await skeleton.count()) > 0) await skeleton.first().waitFor({ state: "detached" });
}
