use crate::Requirement;

/// The answer about a request's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Allow,
    NoCredential,
    InvalidToken,
    InsufficientScope,
    WrongAudience,
    WrongTenant,
    AddressNotAllowed,
    RateLimited,
    /// No answer, or one that this version does not know.
    Undetermined,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::NoCredential => "NO_CREDENTIAL",
            Self::InvalidToken => "INVALID_TOKEN",
            Self::InsufficientScope => "INSUFFICIENT_SCOPE",
            Self::WrongAudience => "WRONG_AUDIENCE",
            Self::WrongTenant => "WRONG_TENANT",
            Self::AddressNotAllowed => "ADDRESS_NOT_ALLOWED",
            Self::RateLimited => "RATE_LIMITED",
            Self::Undetermined => "UNDETERMINED",
        }
    }
}

/// Nanoseconds since 1970 on the database's clock.
pub(crate) type Nanos = i128;

/// What a cached token is judged by. `None` is no limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub scopes: Vec<String>,
    pub audiences: Vec<String>,
    pub expire: Option<Nanos>,
    pub not_before: Option<Nanos>,
}

/// Two bounds of the database's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeBounds {
    pub lower: Nanos,
    pub upper: Nanos,
}

/// Judges a token by its facts, as the server does: the same verdicts in the same order. Expiry is judged by the upper
/// bound and not-before by the lower, so a token ends early or begins late by milliseconds, never the other way round.
pub(crate) fn decide(facts: &Facts, requirement: &Requirement, now: TimeBounds) -> (Verdict, Vec<String>) {
    if facts.expire.is_some_and(|at| now.upper >= at) || facts.not_before.is_some_and(|at| now.lower < at) {
        return (Verdict::InvalidToken, Vec::new());
    }
    if !facts.audiences.is_empty() && !facts.audiences.contains(&requirement.audience) {
        return (Verdict::WrongAudience, Vec::new());
    }
    let lacks = |scope: &&String| !facts.scopes.iter().any(|granted| covers(granted, scope));
    let missing: Vec<String> = requirement.scopes.iter().filter(lacks).cloned().collect();
    (if missing.is_empty() { Verdict::Allow } else { Verdict::InsufficientScope }, missing)
}

/// True if a granted scope is equal to an exact one, or ends in `.*` or `:*` and is its beginning.
fn covers(granted: &str, required: &str) -> bool {
    if granted == required {
        return true;
    }
    (granted.ends_with(".*") || granted.ends_with(":*"))
        && required.len() >= granted.len()
        && required.starts_with(&granted[..granted.len() - 1])
}
