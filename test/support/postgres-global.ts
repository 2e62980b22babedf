// vitest's globalSetup: the one PostgreSQL of a run.
export { setup, teardown } from "./postgres.ts";
