export type Protocol = "grpc" | "connect-proto" | "connect-json" | "http";

/** Why the server, not the handler, must answer a call. */
export type Failure = "undecodable" | "oversized" | "compressed" | "deadline" | "overloaded" | "internal";
