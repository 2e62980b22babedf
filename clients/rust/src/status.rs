use http::{HeaderMap, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::Verdict;

/// The trailer that tells a client the verdict.
pub const VERDICT_TRAILER: &str = "sallyport-verdict";

/// The status of every verdict but ALLOW, with its trailer. The message never says why a token is not live.
pub fn refusal_of(verdict: Verdict) -> Status {
    let (code, message) = match verdict {
        Verdict::NoCredential => (Code::Unauthenticated, "a bearer token is required"),
        Verdict::InvalidToken => (Code::Unauthenticated, "the token is not valid"),
        Verdict::WrongAudience => (Code::Unauthenticated, "the token is not for this service"),
        Verdict::InsufficientScope => (Code::PermissionDenied, "the token lacks a scope"),
        Verdict::WrongTenant => (Code::PermissionDenied, "the token is not valid in this tenant"),
        Verdict::AddressNotAllowed => (Code::PermissionDenied, "the token is not accepted from this address"),
        Verdict::RateLimited => (Code::ResourceExhausted, "too many requests with this token"),
        Verdict::Allow | Verdict::Undetermined => (Code::Unavailable, "the token cannot be checked now"),
    };
    let mut trailer = HeaderMap::new();
    trailer.insert(VERDICT_TRAILER, HeaderValue::from_static(verdict.name()));
    Status::with_metadata(code, message, MetadataMap::from_headers(trailer))
}
