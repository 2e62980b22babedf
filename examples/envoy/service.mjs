// A service behind a proxy: it greets the principal whose token the proxy let through.
import { createServer } from "node:http";

const server = createServer((request, response) => response.end(`hello ${request.headers["x-auth-principal"]}\n`));
server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1");
