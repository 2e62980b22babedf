export { bearerOf } from "./bearer.ts";
export { type Entry, FeedCache, type Identity } from "./cache.ts";
export { type Check, Checker, type CheckerOptions, type Hooks, type Origin, type Tier } from "./checker.ts";
export { type Decision, decide, type Facts, type TimeBounds, type Verdict } from "./decide.ts";
export type { FeedState } from "./follower.ts";
export { CHECKED_PREFIXES, refusedOffline } from "./offline.ts";
export { type Requirement, RequirementMap, type Requirements } from "./requirement.ts";
export { CODES, type Refusal, refusalOf, VERDICT_TRAILER } from "./status.ts";
export { NotSent, type Validator } from "./validator.ts";
