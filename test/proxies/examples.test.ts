import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { parse } from "yaml";
import { ExamplePage } from "../support/example.ts";
import { folder, ROOT } from "../support/program.ts";
import { TestSallyport } from "../support/sallyport.ts";
import { type Change, deployed, freePort, listens } from "./edge.ts";
import { find, titled } from "./programs.ts";

/* The pages of examples/envoy and examples/nginx: each line is run, with other ports and folders. */
interface Ports {
  readonly edge: number;
  readonly admin: number;
  readonly data: number;
  readonly service: number;
}
interface Example {
  /** Writes the files that the page names, and returns what takes their place on the page. */
  readonly place: (folder: string, ports: Ports, program: string) => (readonly [string, string])[];
}

const addresses = (at: (port: number) => string, ports: Ports): Change[] => [
  [at(8000), at(ports.edge)],
  [at(7400), at(ports.data)],
  [at(8080), at(ports.service)],
];

const EXAMPLES: Readonly<Record<string, Example>> = {
  envoy: {
    place(to, ports) {
      const at = (port: number) => `port_value: ${port}`;
      const file = join(to, "envoy.yaml");
      writeFileSync(file, deployed("envoy-grpc.yaml", [...addresses(at, ports), [at(9901), at(ports.admin)]]));
      return [
        ["deploy/proxies/envoy-grpc.yaml", file],
        ["--concurrency 2", "--concurrency 1 --disable-hot-restart --log-level error"],
      ];
    },
  },
  nginx: {
    place(to, ports, program) {
      mkdirSync(join(to, "examples/nginx"), { recursive: true });
      mkdirSync(join(to, "deploy/proxies"), { recursive: true });
      const file = "examples/nginx/nginx.conf";
      writeFileSync(join(to, file), readFileSync(join(ROOT, file)));
      const at = (port: number) => `127.0.0.1:${port}`;
      writeFileSync(join(to, "deploy/proxies/nginx.conf"), deployed("nginx.conf", addresses(at, ports)));
      return [
        [`$PWD/${file}`, join(to, file)],
        ["nginx -p .cache/", `${program} -p ${to}/`],
        ["mkdir -p .cache/", `mkdir -p ${to}/`],
      ];
    },
  },
};

for (const [name, example] of Object.entries(EXAMPLES)) {
  const program = await find(name);
  describe.skipIf(program.why !== undefined)(titled(`the page of examples/${name}`, program), () => {
    const place = folder();
    const started: ChildProcess[] = [];
    let sallyport: TestSallyport;
    let page: ExamplePage;
    let edge: number;
    const block = (text: string) => page.blocks.find((lines) => lines.includes(text))!.trimEnd();
    const start = async (lines: string, port: number) => {
      const all = lines.split("\n");
      if (all.length > 1) await page.run(all.slice(0, -1).join("\n"));
      const child = page.start(all.at(-1)!);
      started.push(child);
      await vi.waitFor(async () => expect(child.exitCode ?? (await listens(port))).toBe(true), { timeout: 20_000 });
    };
    beforeAll(async () => {
      const { policies } = parse(deployed("sallyport.yaml", []));
      sallyport = await TestSallyport.start({ config: { policies } });
      const data = Number(new URL(sallyport.listeners.data).port);
      const ports = { edge: await freePort(), admin: await freePort(), service: await freePort(), data };
      edge = ports.edge;
      page = new ExamplePage(name, sallyport, [
        ...example.place(place.path, ports, program.path),
        ["node examples/envoy/", `PORT=${ports.service} ${process.execPath} examples/envoy/`],
        ["127.0.0.1:8000", `127.0.0.1:${edge}`],
        ["edge.token", `${place.path}/edge.token`],
      ]);
      await start(block("tokens create"), ports.service);
      await start(page.blocks[2]!.trimEnd(), edge);
    });
    afterAll(async () => {
      for (const child of started.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null)) {
        child.kill("SIGTERM");
        await once(child, "exit");
      }
      await sallyport?.stop();
      place.remove();
    });

    test("starts Sallyport with the policies that the proxy's file names", () => {
      expect(page.blocks[0]).toBe("npm ci\nnpm start -- --config deploy/proxies/sallyport.yaml\n");
    });

    test("shows a token that passes, its revocation, and the refusal of the next request", async () => {
      // Envoy refuses with 503 until its first health check of Sallyport.
      await expect.poll(() => fetch(`http://127.0.0.1:${edge}/`).then(({ status }) => status)).toBe(401);
      const { said, stated } = await page.follow(block("curl"));
      expect(stated).toEqual(["hello user:ann", "401"]);
      expect(said).toEqual(stated);
    });
  });
}
