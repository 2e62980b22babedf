import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { certify, writeFiles } from "../listen/certificates.ts";
import { folder } from "../support/program.ts";
import { startTlsCluster, startTlsSentinel } from "../support/redis.ts";
import { connect, PATIENT } from "./fixture.ts";

/* Redis under TLS with a certificate for a host name, where nodes are announced by address. */
const place = folder();
const ca = certify("redis ca", []);
const before = getCACertificates("default");
beforeAll(() => {
  writeFiles(place.path, certify("redis", [{ dns: "localhost" }], ca), ca);
  setDefaultCACertificates([...before, ca.certPem]);
});
afterAll(() => {
  setDefaultCACertificates(before);
  place.remove();
});

/** Returns true if a command gets an answer, or the error if there is one. */
async function reaches(url: string): Promise<string> {
  const { redis, journal } = connect(url, PATIENT);
  await expect.poll(() => redis.ready || journal.lines.length > 0, { timeout: 20_000 }).toBe(true);
  const answer = await redis.ask((commands) => commands.set("sallyport:v1:x", "y"));
  return answer ?? journal.lines.join("\n");
}

test("a cluster is verified by the name in the URL, and by no other", { timeout: 60_000 }, async () => {
  const { port, stop } = await startTlsCluster(place.path);
  onTestFinished(stop);
  expect(await reaches(`rediss-cluster://localhost:${port}`)).toBe("OK");
  expect(await reaches(`rediss-cluster://127.0.0.1:${port}?server_name=other.example,localhost`)).toBe("OK");
  expect(await reaches(`rediss-cluster://127.0.0.1:${port}?server_name=other.example`)).not.toBe("OK");
  expect(await reaches(`rediss-cluster://127.0.0.1:${port}`)).not.toBe("OK");
});

test("a primary behind its sentinel is verified by the name in the URL", { timeout: 60_000 }, async () => {
  const { port, name, stop } = await startTlsSentinel(place.path);
  onTestFinished(stop);
  expect(await reaches(`rediss-sentinel://localhost:${port}/${name}`)).toBe("OK");
  expect(await reaches(`rediss-sentinel://127.0.0.1:${port}/${name}?server_name=localhost`)).toBe("OK");
});
