use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::cache::{Entry, FeedCache, Mono};
use crate::decide::{Nanos, decide};
use crate::{Check, Requirement, Verdict};

/// The longest time for which messages wait for a new check.
const HOLD: Duration = Duration::from_millis(500);
/// Before a check is repeated that is older than a known change, or had no answer.
const AGAIN: Duration = Duration::from_millis(20);
/// Between the checks of a stream whose token has no usable entry.
const RECHECK: Duration = Duration::from_secs(1);

pub(crate) type Then = Box<dyn FnOnce() + Send>;
pub(crate) type Answered = Box<dyn FnOnce(Check) + Send>;

/// What a guard needs of the world.
pub(crate) struct World {
    pub mono: Mono,
    /// Calls the function after a time, unless the function that it returns is called before.
    pub after: Box<dyn Fn(Duration, Then) -> Then + Send + Sync>,
    /// Checks the token anew. It must answer later, never in the call.
    pub check: Box<dyn Fn(Answered) + Send + Sync>,
}

/// Who waits for the guard. Each has one task at a time.
#[derive(Clone, Copy)]
pub(crate) enum Waiter {
    Call,
    Request,
    Response,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Open,
    Suspended,
    Closed,
}

/// Keeps a stream as fresh as a unary call: no message passes, in either direction, on a token that is no longer usable.
/// Such a stream is suspended and checked again; it then goes on or ends.
pub(crate) struct Guard {
    /// None: off.
    cache: Option<Arc<FeedCache>>,
    requirement: Requirement,
    world: World,
    state: Mutex<State>,
    me: Weak<Guard>,
}

struct State {
    entry: Option<Arc<Entry>>,
    phase: Phase,
    ended: Option<Verdict>,
    wakers: [Option<Waker>; 3],
    watcher: Option<u64>,
    /// Cancels the next look.
    cancel: Option<Then>,
    /// Cancels the limit of the suspension.
    limit: Option<Then>,
    /// The suspensions so far.
    round: u64,
    begun: Duration,
}

impl Guard {
    /// Guards a stream that was opened on `entry`.
    pub fn start(
        cache: Option<Arc<FeedCache>>,
        requirement: Requirement,
        world: World,
        entry: Option<Arc<Entry>>,
    ) -> Arc<Self> {
        let state = State {
            entry,
            phase: Phase::Open,
            ended: None,
            wakers: [None, None, None],
            watcher: None,
            cancel: None,
            limit: None,
            round: 0,
            begun: Duration::ZERO,
        };
        let guard = Arc::new_cyclic(|me| Self { cache, requirement, world, state: Mutex::new(state), me: me.clone() });
        if let Some(cache) = &guard.cache {
            // Called in the step that applies an answer, so before the acknowledgement.
            let me = Arc::downgrade(&guard);
            let watcher = cache.watch(Arc::new(move || {
                if let Some(guard) = me.upgrade() {
                    guard.look(&mut guard.lock());
                }
            }));
            guard.lock().watcher = Some(watcher);
        }
        guard.look(&mut guard.lock());
        guard
    }

    /// Ready when a message may pass now, or with an error when the stream is over.
    pub fn poll_pass(&self, cx: &mut Context<'_>, waiter: Waiter) -> Poll<Result<(), Option<Verdict>>> {
        let mut state = self.lock();
        if state.phase == Phase::Open && state.entry.is_some() && !self.good(&state) {
            self.suspend(&mut state);
        }
        match state.phase {
            Phase::Open => Poll::Ready(Ok(())),
            Phase::Closed => Poll::Ready(Err(state.ended)),
            Phase::Suspended => {
                state.wakers[waiter as usize] = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ready when the guard has ended the stream.
    pub fn poll_ended(&self, cx: &mut Context<'_>, waiter: Waiter) -> Poll<Verdict> {
        let mut state = self.lock();
        if let Some(verdict) = state.ended {
            return Poll::Ready(verdict);
        }
        state.wakers[waiter as usize] = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Says that the stream is over.
    pub fn close(&self) {
        self.shut(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shut(&self, state: &mut State) {
        if state.phase == Phase::Closed {
            return;
        }
        state.phase = Phase::Closed;
        call(&mut state.cancel);
        call(&mut state.limit);
        if let (Some(cache), Some(watcher)) = (&self.cache, state.watcher.take()) {
            cache.unwatch(watcher);
        }
        state.wake();
    }

    /// True if the entry is usable and still admits the stream. Without an entry only the timer asks.
    fn good(&self, state: &State) -> bool {
        let (Some(cache), Some(entry)) = (&self.cache, &state.entry) else { return false };
        cache.usable(entry) && decide(&entry.facts, &self.requirement, cache.time()).0 == Verdict::Allow
    }

    /// Suspends the stream if its entry is not good, and otherwise looks again when the entry can first cease to be.
    fn look(&self, state: &mut State) {
        if state.phase != Phase::Open {
            return;
        }
        let (Some(cache), Some(entry)) = (&self.cache, &state.entry) else {
            if state.cancel.is_none() {
                state.cancel = Some(self.after(RECHECK, |guard, state| {
                    if state.phase == Phase::Open {
                        guard.suspend(state);
                    }
                }));
            }
            return;
        };
        if !self.good(state) {
            return self.suspend(state);
        }
        let mut soonest = cache.lease();
        if let Some(expire) = entry.facts.expire {
            let left = (expire - cache.time().upper).clamp(0, soonest.as_nanos() as Nanos);
            soonest = Duration::from_nanos(left as u64);
        }
        call(&mut state.cancel);
        state.cancel = Some(self.after(soonest.max(Duration::from_millis(1)), Self::look));
    }

    fn after(&self, time: Duration, then: impl FnOnce(&Self, &mut State) + Send + 'static) -> Then {
        let me = self.me.clone();
        let run = move || {
            if let Some(guard) = me.upgrade() {
                then(&guard, &mut guard.lock());
            }
        };
        (self.world.after)(time, Box::new(run))
    }

    fn suspend(&self, state: &mut State) {
        state.phase = Phase::Suspended;
        state.round += 1;
        state.begun = (self.world.mono)();
        call(&mut state.cancel);
        let round = state.round;
        // The limit holds for a check without an answer too.
        state.limit = Some(self.after(HOLD, move |guard, state| {
            if state.in_round(round) {
                guard.end(state, Verdict::Undetermined);
            }
        }));
        self.recheck(round);
    }

    fn recheck(&self, round: u64) {
        let me = self.me.clone();
        (self.world.check)(Box::new(move |answer| {
            let Some(guard) = me.upgrade() else { return };
            let mut state = guard.lock();
            if state.in_round(round) {
                guard.answered(&mut state, answer);
            }
        }));
    }

    fn answered(&self, state: &mut State, answer: Check) {
        if !matches!(answer.verdict, Verdict::Allow | Verdict::Undetermined) {
            return self.end(state, answer.verdict);
        }
        state.entry = answer.entry;
        if answer.verdict == Verdict::Allow {
            // The answer was made after the suspension, so the held messages may pass; without a lease the entry is
            // worth nothing more, and the stream is checked by time.
            if self.cache.as_ref().is_none_or(|cache| cache.lease().is_zero()) {
                state.entry = None;
            }
            if state.entry.is_none() || self.good(state) {
                state.phase = Phase::Open;
                call(&mut state.limit);
                // Each of the held messages looks again: a change may come in between.
                state.wake();
                return self.look(state);
            }
        }
        if (self.world.mono)().saturating_sub(state.begun) >= HOLD {
            return self.end(state, Verdict::Undetermined);
        }
        let round = state.round;
        drop(self.after(AGAIN, move |guard, state| {
            if state.in_round(round) {
                guard.recheck(round);
            }
        }));
    }

    fn end(&self, state: &mut State, verdict: Verdict) {
        state.ended = Some(verdict);
        self.shut(state);
    }
}

impl State {
    fn in_round(&self, round: u64) -> bool {
        self.phase == Phase::Suspended && self.round == round
    }

    fn wake(&mut self) {
        self.wakers.iter_mut().filter_map(Option::take).for_each(Waker::wake);
    }
}

/// Calls a function if there is one, and forgets it.
fn call(function: &mut Option<Then>) {
    if let Some(function) = function.take() {
        function();
    }
}
