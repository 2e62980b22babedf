// Asks the service for an order: node client.js PORT FILE, with a file that holds a token string.
import { readFileSync } from "node:fs";
import { Client, credentials, Metadata, status } from "@grpc/grpc-js";

const [port, file] = process.argv.slice(2);
const metadata = new Metadata();
metadata.set("authorization", `Bearer ${readFileSync(file, "utf8").trim()}`);
const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
client.makeUnaryRequest(
  "/shop.v1.Orders/Get",
  (order) => Buffer.from(order),
  (bytes) => bytes.toString(),
  "7",
  metadata,
  { deadline: Date.now() + 5_000 },
  (error, answer) => {
    const said = error === null ? answer : `${status[error.code]} ${error.metadata.get("sallyport-verdict")}`;
    process.stdout.write(`${said}\n`);
    client.close();
  },
);
