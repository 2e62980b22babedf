use std::task::{Context, Poll, Waker};

use super::*;
use crate::guard::{Answered, Guard, Then, Waiter, World};

/// Timers by hand.
#[derive(Default)]
struct Timers {
    next: u64,
    due: Vec<(Duration, u64, Then)>,
}

type Shared<T> = Arc<Mutex<T>>;

fn to(now: &AtomicU64, timers: &Shared<Timers>, until: Duration) {
    loop {
        let then = {
            let due = &mut timers.lock().unwrap().due;
            let first = due.iter().map(|(at, number, _)| (*at, *number)).min().filter(|(at, _)| *at <= until);
            let Some((at, number)) = first else { break };
            now.fetch_max(at.as_nanos() as u64, Ordering::Relaxed);
            let place = due.iter().position(|timer| timer.1 == number).unwrap();
            due.remove(place).2
        };
        then();
    }
    now.store(until.as_nanos() as u64, Ordering::Relaxed);
}

#[test]
fn guards() {
    for case in cases(&vectors("guard")) {
        let (now, mono) = hand();
        let timers: Shared<Timers> = Shared::default();
        let asked: Shared<Vec<Answered>> = Shared::default();
        let expire = (!case["expire"].is_null()).then(|| at(&case["expire"]));
        let entry_of = |value: &Value| (!value.is_null()).then(|| entry(value, expire));
        let cache = Arc::new(FeedCache::new(mono.clone()));
        let apply = |version, changed, lease| {
            let sent = mono();
            let time = sent.as_nanos() as Nanos;
            let time = Some(TimeBounds { lower: time, upper: time });
            cache.apply(FeedAnswer { version, lease: Some(lease), changed, floor: 0, time }, sent);
        };
        apply(Version { epoch: b"e".to_vec(), position: 5 }, Vec::new(), Duration::from_millis(1300));
        let (set, ask, clock) = (timers.clone(), asked.clone(), mono.clone());
        let world = World {
            mono: mono.clone(),
            after: Box::new(move |time, then| {
                let mut timers = set.lock().unwrap();
                timers.next += 1;
                let number = timers.next;
                timers.due.push((clock() + time, number, then));
                let set = set.clone();
                Box::new(move || set.lock().unwrap().due.retain(|timer| timer.1 != number))
            }),
            check: Box::new(move |done| ask.lock().unwrap().push(done)),
        };
        let cached = (case["cache"] != "off").then(|| cache.clone());
        let guard = Guard::start(cached, Requirement::default(), world, entry_of(&case["entry"]));
        let mut waiting: Vec<String> = Vec::new();
        let mut passed: Vec<String> = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        for step in case["steps"].as_array().unwrap() {
            to(&now, &timers, ms(&step["at"]));
            let about = format!("{}: {step}", case["name"]);
            if let Some(feed) = step.get("feed") {
                apply(version(feed), numbers(&feed["changed"]), ms(&feed["lease"]));
                if let Some(suspends) = feed.get("suspends") {
                    assert_eq!(!asked.lock().unwrap().is_empty(), *suspends, "{about}");
                }
            } else if step.get("message").is_some() {
                waiting.push(text(&step["message"]));
            } else if let Some(answer) = step.get("answer") {
                let done = asked.lock().unwrap().remove(0);
                done(Check {
                    entry: entry_of(&answer["entry"]),
                    ..Check::refused(verdict(&answer["verdict"]), Vec::new())
                });
            }
            while !waiting.is_empty() && guard.poll_pass(&mut cx, Waiter::Request) == Poll::Ready(Ok(())) {
                passed.push(waiting.remove(0));
            }
            if step.get("passed").is_some() {
                let ended = match guard.poll_ended(&mut cx, Waiter::Response) {
                    Poll::Ready(verdict) => Value::from(verdict.name()),
                    Poll::Pending => Value::Null,
                };
                let pending = !asked.lock().unwrap().is_empty();
                assert_eq!((&passed, pending), (&texts(&step["passed"]), step["pending"] == true), "{about}");
                assert_eq!(ended, step["ended"], "{about}");
                passed.clear();
            }
        }
        guard.close();
    }
}
