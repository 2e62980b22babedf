use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost_types::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tonic::transport::Endpoint;

use crate::cache::{Entry, FeedCache, Key, Mono, Version};
use crate::decide::{Facts, Nanos, decide};
use crate::follower::Follower;
use crate::offline::{CHECKED_PREFIXES, refused_offline};
use crate::validator::{GrpcValidator, InvalidBearer, Validator};
use crate::{Requirement, Verdict, pb};

const CHECK_TIME: Duration = Duration::from_millis(300);

/// What a live token says about its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub token_id: String,
    pub tenant: String,
    pub principal: String,
    pub profile: String,
    pub scopes: Vec<String>,
    pub audiences: Vec<String>,
    /// `None`: the token never expires.
    pub expire: Option<SystemTime>,
    pub annotations: std::collections::HashMap<String, String>,
}

/// A hook on a verdict, the tier that made it (`offline`, `cache` or `server`) and the time that it took.
pub type CheckedHook = Box<dyn Fn(Verdict, &'static str, Duration) + Send + Sync>;

/// Called with what happens. A hook never sees a token string.
#[derive(Default)]
pub struct Hooks {
    pub checked: Option<CheckedHook>,
    /// The time for which the cache may be used.
    pub lease: Option<Box<dyn Fn(Duration) + Send + Sync>>,
    /// `following`, `lost` or `left`.
    pub feed: Option<Box<dyn Fn(&'static str) + Send + Sync>>,
    pub stream_ended: Option<Box<dyn Fn(Verdict) + Send + Sync>>,
}

/// Options of a [`Checker`]; all have a default.
pub struct Options {
    /// Keeps the facts of live tokens and follows the server's changes. Otherwise the server is asked each time.
    pub feed: bool,
    /// A token with `sallyport.validate`, where the server asks for one.
    pub bearer: String,
    /// Prefixes of token strings that carry a checksum.
    pub checked_prefixes: Vec<String>,
    pub hooks: Hooks,
    /// The longest time of one check, its retry included.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            feed: false,
            bearer: String::new(),
            checked_prefixes: CHECKED_PREFIXES.iter().map(ToString::to_string).collect(),
            hooks: Hooks::default(),
            timeout: CHECK_TIME,
        }
    }
}

/// The origin of a request.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// An IP address without a port.
    pub client_address: String,
    pub path: String,
}

/// The answer about a request. `identity` is present for ALLOW only.
#[derive(Clone, Debug)]
pub struct Check {
    pub verdict: Verdict,
    pub identity: Option<Arc<Identity>>,
    pub missing_scopes: Vec<String>,
    /// What the verdict rests on, if it may be cached.
    pub(crate) entry: Option<Arc<Entry>>,
}

impl Check {
    pub(crate) fn refused(verdict: Verdict, missing_scopes: Vec<String>) -> Self {
        Self { verdict, identity: None, missing_scopes, entry: None }
    }
}

/// Checks the tokens of requests. There is no setting by which an outage admits a request.
pub struct Checker {
    validator: Arc<dyn Validator>,
    checked_prefixes: Vec<String>,
    timeout: Duration,
    pub(crate) hooks: Arc<Hooks>,
    pub(crate) cache: Option<Arc<FeedCache>>,
    pub(crate) mono: Mono,
    follower: Mutex<Option<Follower>>,
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checker").field("feed", &self.cache.is_some()).finish_non_exhaustive()
    }
}

impl Checker {
    /// A checker that asks the server at an endpoint, with one connection for checks and one for the feed. It must be made
    /// in a Tokio runtime.
    pub fn new(endpoint: Endpoint, options: Options) -> Result<Arc<Self>, InvalidBearer> {
        let validator = Arc::new(GrpcValidator::new(endpoint, &options.bearer)?);
        Ok(Self::with(validator, options))
    }

    pub(crate) fn with(validator: Arc<dyn Validator>, options: Options) -> Arc<Self> {
        let begun = Instant::now();
        let mono: Mono = Arc::new(move || begun.elapsed());
        let hooks = Arc::new(options.hooks);
        let cache = options.feed.then(|| Arc::new(FeedCache::new(mono.clone())));
        let follow = |cache| Follower::start(validator.clone(), cache, mono.clone(), hooks.clone());
        let follower = Mutex::new(cache.clone().map(follow));
        let Options { checked_prefixes, timeout, .. } = Options { hooks: Hooks::default(), ..options };
        Arc::new(Self { validator, checked_prefixes, timeout, hooks, cache, mono, follower })
    }

    /// Leaves the feed. From then on each check asks the server.
    pub async fn close(&self) {
        if let Some(mut follower) = self.follower.lock().await.take() {
            follower.leave().await;
        }
    }

    /// The time for which the cache may still be used; 0 without a lease.
    pub fn lease(&self) -> Duration {
        self.cache.as_ref().map_or(Duration::ZERO, |cache| cache.lease())
    }

    /// Judges a token string against a requirement. The empty string is INVALID_TOKEN, without a call.
    pub async fn check(&self, token: &str, requirement: &Requirement, origin: &Origin) -> Check {
        let begun = (self.mono)();
        let (check, tier) = self.judge(token, requirement, origin, begun).await;
        if let Some(hook) = &self.hooks.checked {
            hook(check.verdict, tier, (self.mono)().saturating_sub(begun));
        }
        check
    }

    async fn judge(
        &self,
        token: &str,
        requirement: &Requirement,
        origin: &Origin,
        begun: Duration,
    ) -> (Check, &'static str) {
        if refused_offline(token, &self.checked_prefixes) {
            return (Check::refused(Verdict::InvalidToken, Vec::new()), "offline");
        }
        let kept = self.cache.as_deref().map(|cache| (cache, Key::from(Sha256::digest(token))));
        if let Some((cache, key)) = &kept
            && let Some(check) = cached(cache, key, requirement)
        {
            return (check, "cache");
        }
        let request = pb::ValidateTokenRequest {
            token_string: token.to_owned(),
            required_scopes: requirement.scopes.clone(),
            audience: requirement.audience.clone(),
            context: Some(pb::RequestContext {
                client_address: origin.client_address.clone(),
                path: origin.path.clone(),
                ..Default::default()
            }),
            tenant: requirement.tenant.clone(),
            want_entry: kept.is_some(),
        };
        let check = match tokio::time::timeout(self.timeout, self.validator.validate(request)).await {
            Ok(Ok(answer)) => believe(kept, answer, requirement, begun),
            _ => Check::refused(Verdict::Undetermined, Vec::new()),
        };
        (check, "server")
    }
}

/// Never answers a check that names a tenant: the server knows which tenants a token may act in.
fn cached(cache: &FeedCache, key: &Key, requirement: &Requirement) -> Option<Check> {
    if !requirement.tenant.is_empty() {
        return None;
    }
    let Some(entry) = cache.entry(key) else {
        return cache.refused(key).then(|| Check::refused(Verdict::InvalidToken, Vec::new()));
    };
    let (verdict, missing) = decide(&entry.facts, requirement, cache.time());
    if verdict != Verdict::Allow {
        return Some(Check::refused(verdict, missing));
    }
    let identity = Some(entry.identity.clone());
    Some(Check { verdict, identity, missing_scopes: missing, entry: Some(entry) })
}

/// The verdict of an answer, after the cache has learnt from it.
fn believe(
    kept: Option<(&FeedCache, Key)>,
    answer: pb::ValidateTokenResponse,
    requirement: &Requirement,
    begun: Duration,
) -> Check {
    let verdict = verdict_of(answer.verdict);
    let identity = answer.token.as_ref().map(|token| Arc::new(identity_of(token)));
    let mut entry = learn(kept, &answer, verdict, identity.as_ref(), begun);
    if verdict != Verdict::Allow {
        return Check::refused(verdict, answer.missing_scopes);
    }
    let Some(token) = answer.token else { return Check::refused(Verdict::Undetermined, Vec::new()) };
    if !requirement.tenant.is_empty() && token.tenant != requirement.tenant {
        // A server that does not know the field answers ALLOW. An entry says nothing about further tenants.
        if !token.tenants.contains(&requirement.tenant) {
            return Check::refused(Verdict::WrongTenant, Vec::new());
        }
        entry = None;
    }
    Check { verdict, identity, missing_scopes: Vec::new(), entry }
}

fn learn(
    kept: Option<(&FeedCache, Key)>,
    answer: &pb::ValidateTokenResponse,
    verdict: Verdict,
    identity: Option<&Arc<Identity>>,
    since: Duration,
) -> Option<Arc<Entry>> {
    let ((cache, key), told) = (kept?, answer.entry.as_ref()?);
    let version = Version { epoch: told.epoch.clone(), position: told.position };
    match verdict {
        Verdict::InvalidToken => {
            cache.store_refusal(key, version, since);
            return None;
        }
        Verdict::Allow | Verdict::InsufficientScope | Verdict::WrongAudience => {}
        _ => return None,
    }
    let identity = identity?;
    // Without a tag no change would reach it.
    if told.tags.is_empty() {
        return None;
    }
    let facts = Facts {
        scopes: identity.scopes.clone(),
        audiences: identity.audiences.clone(),
        expire: answer.token.as_ref()?.expire_time.as_ref().map(nanos),
        not_before: told.not_before_time.as_ref().map(nanos),
    };
    let entry = Arc::new(Entry { version, tags: told.tags.clone(), facts, identity: identity.clone() });
    cache.store(key, entry.clone(), since);
    Some(entry)
}

fn verdict_of(verdict: i32) -> Verdict {
    match pb::Verdict::try_from(verdict) {
        Ok(pb::Verdict::Allow) => Verdict::Allow,
        Ok(pb::Verdict::InvalidToken) => Verdict::InvalidToken,
        Ok(pb::Verdict::InsufficientScope) => Verdict::InsufficientScope,
        Ok(pb::Verdict::WrongAudience) => Verdict::WrongAudience,
        Ok(pb::Verdict::AddressNotAllowed) => Verdict::AddressNotAllowed,
        Ok(pb::Verdict::RateLimited) => Verdict::RateLimited,
        Ok(pb::Verdict::WrongTenant) => Verdict::WrongTenant,
        Ok(pb::Verdict::Undetermined | pb::Verdict::Unspecified) | Err(_) => Verdict::Undetermined,
    }
}

fn identity_of(token: &pb::ValidatedToken) -> Identity {
    Identity {
        token_id: token.id.clone(),
        tenant: token.tenant.clone(),
        principal: token.principal.clone(),
        profile: token.profile.clone(),
        scopes: token.scopes.clone(),
        audiences: token.audiences.clone(),
        // A time that this machine cannot express is in the past, rather than never.
        expire: token.expire_time.map(|time| SystemTime::try_from(time).unwrap_or(SystemTime::UNIX_EPOCH)),
        annotations: token.annotations.clone(),
    }
}

pub(crate) fn nanos(time: &Timestamp) -> Nanos {
    Nanos::from(time.seconds) * 1_000_000_000 + Nanos::from(time.nanos)
}
