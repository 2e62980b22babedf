//! The vectors that the client of every language must satisfy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cache::{Entry, FeedAnswer, FeedCache, Key, Mono, Version};
use crate::decide::{Facts, Nanos, TimeBounds, decide};
use crate::*;

mod checks;
mod guards;
mod streams;

fn vectors(name: &str) -> Value {
    let path = format!("{}/../vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn cases(vectors: &Value) -> &Vec<Value> {
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() > 5);
    cases
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default()
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().map(|all| all.iter().map(|n| n.as_u64().unwrap()).collect()).unwrap_or_default()
}

fn ms(value: &Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().unwrap() / 1000.0)
}

fn at(value: &Value) -> Nanos {
    (value.as_f64().unwrap() * 1000.0) as Nanos * 1000
}

fn requirement(value: &Value) -> Requirement {
    if value == "public" {
        return Requirement::public();
    }
    Requirement {
        public: false,
        scopes: texts(&value["scopes"]),
        audience: text(&value["audience"]),
        tenant: text(&value["tenant"]),
    }
}

fn version(value: &Value) -> Version {
    Version { epoch: text(&value["epoch"]).into_bytes(), position: value["position"].as_i64().unwrap() }
}

fn entry(value: &Value, expire: Option<Nanos>) -> Arc<Entry> {
    Arc::new(Entry {
        version: version(value),
        tags: numbers(&value["tags"]),
        facts: Facts { expire, ..Facts::default() },
        identity: Arc::default(),
    })
}

fn verdict(value: &Value) -> Verdict {
    use Verdict::*;
    let all = [
        Allow,
        NoCredential,
        InvalidToken,
        InsufficientScope,
        WrongAudience,
        WrongTenant,
        AddressNotAllowed,
        RateLimited,
    ];
    all.into_iter().find(|verdict| value == verdict.name()).unwrap_or(Undetermined)
}

/// A clock by hand, in nanoseconds.
fn hand() -> (Arc<AtomicU64>, Mono) {
    let now = Arc::new(AtomicU64::new(0));
    let read = now.clone();
    (now, Arc::new(move || Duration::from_nanos(read.load(Ordering::Relaxed))))
}

#[test]
fn offline() {
    for case in cases(&vectors("offline")) {
        let token = text(&case["token"]).repeat(case["repeat"].as_u64().unwrap_or(1) as usize);
        let refused = match &case["prefixes"] {
            Value::Null => refused_offline(&token, CHECKED_PREFIXES),
            prefixes => refused_offline(&token, &texts(prefixes)),
        };
        assert_eq!(refused, case["refused"], "{}", case["name"]);
    }
}

#[test]
fn decisions() {
    for case in cases(&vectors("decide")) {
        let time = |value: &Value| (!value.is_null()).then(|| at(value));
        let facts = &case["facts"];
        let facts = Facts {
            scopes: texts(&facts["scopes"]),
            audiences: texts(&facts["audiences"]),
            expire: time(&facts["expire"]),
            not_before: time(&facts["notBefore"]),
        };
        let now = TimeBounds { lower: at(&case["time"]["lower"]), upper: at(&case["time"]["upper"]) };
        let (decided, missing) = decide(&facts, &requirement(&case["requirement"]), now);
        assert_eq!((decided.name().into(), missing), (text(&case["verdict"]), texts(&case["missing"])), "{case}");
    }
}

#[test]
fn requirements() {
    let vectors = vectors("requirement");
    let rules = vectors["rules"].as_object().unwrap();
    let rules = Requirements::new(rules.iter().map(|(key, rule)| (key, requirement(rule)))).unwrap();
    for case in cases(&vectors) {
        assert_eq!(rules.of(&text(&case["method"])), requirement(&case["requirement"]), "{case}");
    }
    for bad in texts(&vectors["bad"]) {
        assert!(Requirements::new([(bad.as_str(), Requirement::default())]).is_err(), "{bad}");
    }
    let long = Requirement { tenant: "a".repeat(64), ..Requirement::default() };
    assert!(Requirements::new([("a.v1.A/B", long)]).is_err());
}

#[test]
fn statuses() {
    for case in cases(&vectors("status")) {
        let verdict = verdict(&case["verdict"]);
        let status = refusal_of(verdict);
        assert_eq!(status.code() as i64, case["code"].as_i64().unwrap(), "{case}");
        assert_eq!(status.metadata().get(VERDICT_TRAILER).unwrap(), verdict.name());
    }
}

#[test]
fn feed() {
    let key = |value: &Value| Key::from(Sha256::digest(text(value)));
    for case in cases(&vectors("feed")) {
        let (now, mono) = hand();
        let cache = FeedCache::new(mono);
        for step in case["steps"].as_array().unwrap() {
            now.store(ms(&step["at"]).as_nanos() as u64, Ordering::Relaxed);
            let about = format!("{}: {step}", case["name"]);
            let of = |name: &str| step.get(name);
            if let Some(answer) = of("answer") {
                let bounds = || TimeBounds { lower: at(&answer["lower"]), upper: at(&answer["upper"]) };
                let fed = FeedAnswer {
                    version: version(answer),
                    lease: (!answer["lease"].is_null()).then(|| ms(&answer["lease"])),
                    changed: numbers(&answer["changed"]),
                    floor: answer["floor"].as_i64().unwrap(),
                    time: (!answer["lower"].is_null()).then(bounds),
                };
                cache.apply(fed, ms(&answer["sent"]));
            } else if let Some(kept) = of("store") {
                cache.store(key(&kept["key"]), entry(kept, None), ms(&kept["asked"]));
            } else if let Some(kept) = of("refuse") {
                cache.store_refusal(key(&kept["key"]), version(kept), ms(&kept["asked"]));
            } else if let Some(wanted) = of("find") {
                assert_eq!(cache.entry(&key(wanted)).is_some(), step["found"], "{about}");
            } else if let Some(wanted) = of("refused") {
                assert_eq!(cache.refused(&key(wanted)), step["found"], "{about}");
            } else if let Some(wanted) = of("acknowledges") {
                assert_eq!(cache.applied(), version(wanted), "{about}");
            } else {
                let wanted = &step["time"];
                let wanted = TimeBounds { lower: at(&wanted["lower"]), upper: at(&wanted["upper"]) };
                assert_eq!(cache.time(), wanted, "{about}");
            }
        }
    }
}
