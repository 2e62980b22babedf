//! Checks Sallyport tokens in a gRPC service. See the README of `clients` for what every client promises.

mod cache;
mod checker;
mod decide;
mod follower;
mod guard;
mod layer;
mod offline;
#[path = "gen/sallyport.v1.rs"]
#[rustfmt::skip]
#[allow(dead_code, clippy::all)]
mod pb;
mod requirement;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod validator;

pub use checker::{Check, CheckedHook, Checker, Hooks, Identity, Options, Origin};
pub use decide::Verdict;
pub use layer::{AuthLayer, AuthService, identity_of};
pub use offline::{CHECKED_PREFIXES, refused_offline};
pub use requirement::{Requirement, Requirements};
pub use status::{VERDICT_TRAILER, refusal_of};
pub use validator::InvalidBearer;
