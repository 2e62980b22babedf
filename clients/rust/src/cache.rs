use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Identity;
use crate::decide::{Facts, Nanos, TimeBounds};

const MAX_ENTRIES: usize = 10_000;
const MAX_TAGS: usize = 100_000;
/// Absolute: so the server's record of last use is exact to a minute.
const ENTRY_LIFE: Duration = Duration::from_secs(60);
const REFUSAL_LIFE: Duration = Duration::from_secs(5);

/// A monotonic clock that counts from any start.
pub(crate) type Mono = Arc<dyn Fn() -> Duration + Send + Sync>;
/// The SHA-256 of a token string.
pub(crate) type Key = [u8; 32];
type Watcher = Arc<dyn Fn() + Send + Sync>;

/// Says which changes an answer includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub epoch: Vec<u8>,
    pub position: i64,
}

/// A live token's facts as of a version. They are no verdict: that is made anew at each use.
#[derive(Debug)]
pub(crate) struct Entry {
    pub version: Version,
    pub tags: Vec<u64>,
    pub facts: Facts,
    pub identity: Arc<Identity>,
}

/// An answer of the change feed. An answer without `time` keeps the bounds of before and gives no lease.
pub(crate) struct FeedAnswer {
    pub version: Version,
    /// Counts from the send of the request.
    pub lease: Option<Duration>,
    pub changed: Vec<u64>,
    pub floor: i64,
    pub time: Option<TimeBounds>,
}

/// The cache of a client that follows the change feed. Nothing in it is used without a lease, and nothing that a change
/// has reached.
pub(crate) struct FeedCache {
    mono: Mono,
    state: Mutex<State>,
}

struct State {
    entries: Ring<Arc<Entry>>,
    refusals: Ring<Version>,
    /// The highest position at which each tag changed.
    changed: HashMap<u64, i64>,
    version: Version,
    floor: i64,
    lease_until: Option<Duration>,
    time: TimeBounds,
    sent: Duration,
    received: Duration,
    watchers: HashMap<u64, Watcher>,
    next_watcher: u64,
}

impl FeedCache {
    pub fn new(mono: Mono) -> Self {
        let state = State {
            entries: Ring::new(),
            refusals: Ring::new(),
            changed: HashMap::new(),
            version: Version { epoch: Vec::new(), position: -1 },
            floor: 0,
            lease_until: None,
            time: TimeBounds::default(),
            sent: Duration::ZERO,
            received: Duration::ZERO,
            watchers: HashMap::new(),
            next_watcher: 0,
        };
        Self { mono, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next request acknowledges.
    pub fn applied(&self) -> Version {
        self.lock().version.clone()
    }

    /// The time for which entries may still be used; 0 without a lease.
    pub fn lease(&self) -> Duration {
        let state = self.lock();
        state.lease_until.map_or(Duration::ZERO, |until| until.saturating_sub((self.mono)()))
    }

    /// True if the entry may be used now.
    pub fn usable(&self, entry: &Entry) -> bool {
        let state = self.lock();
        state.usable(entry, (self.mono)())
    }

    /// Bounds of the database's time now. They mean something only with a lease.
    pub fn time(&self) -> TimeBounds {
        let state = self.lock();
        state.time((self.mono)())
    }

    /// The usable entry of a key. One that is not usable is dropped, unless only the lease is missing.
    pub fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        let mut state = self.lock();
        let now = (self.mono)();
        let kept = state.entries.of.get(key)?;
        if now.saturating_sub(kept.since) < ENTRY_LIFE {
            if state.usable(&kept.value, now) {
                return Some(kept.value.clone());
            }
            if !state.leased(now) {
                return None;
            }
        }
        state.entries.of.remove(key);
        None
    }

    /// True if the key was refused lately and nothing at all has changed since, so that the refusal still stands.
    pub fn refused(&self, key: &Key) -> bool {
        let mut state = self.lock();
        let now = (self.mono)();
        let Some(kept) = state.refusals.of.get(key) else { return false };
        if now.saturating_sub(kept.since) < REFUSAL_LIFE && state.stands(&kept.value) {
            return state.leased(now);
        }
        state.refusals.of.remove(key);
        false
    }

    /// Keeps the facts of a token that was asked for at `since`.
    pub fn store(&self, key: Key, entry: Arc<Entry>, since: Duration) {
        let mut state = self.lock();
        if state.usable(&entry, (self.mono)()) {
            state.refusals.of.remove(&key);
            state.entries.put(key, entry, since);
        }
    }

    /// Keeps the answer that a string is no live token, asked for at `since`.
    pub fn store_refusal(&self, key: Key, version: Version, since: Duration) {
        let mut state = self.lock();
        state.entries.of.remove(&key);
        if state.stands(&version) {
            state.refusals.put(key, version, since);
        }
    }

    /// Applies the answer to the request that was sent at `sent`, whole and in one step, and tells the watchers before
    /// the next request can acknowledge it.
    pub fn apply(&self, answer: FeedAnswer, sent: Duration) {
        let watchers = {
            let mut state = self.lock();
            if answer.version.epoch != state.version.epoch {
                state.forget(answer.version.epoch);
            }
            let position = answer.version.position;
            for tag in answer.changed {
                let changed = state.changed.entry(tag).or_insert(position);
                *changed = position.max(*changed);
            }
            state.floor = state.floor.max(answer.floor);
            state.version.position = state.version.position.max(position);
            if state.changed.len() > MAX_TAGS {
                state.floor = state.floor.max(state.version.position);
                state.changed.clear();
            }
            if let Some(time) = answer.time {
                (state.time, state.sent, state.received) = (time, sent, (self.mono)());
                let until = answer.lease.map(|lease| sent.saturating_add(lease));
                state.lease_until = state.lease_until.max(until);
            }
            state.watchers()
        };
        watchers.iter().for_each(|watcher| watcher());
    }

    /// Ends the lease, for a cache that leaves the feed.
    pub fn drop_lease(&self) {
        let watchers = {
            let mut state = self.lock();
            state.lease_until = None;
            state.watchers()
        };
        watchers.iter().for_each(|watcher| watcher());
    }

    /// Calls `watcher` in the step of every answer, until its number is given to `unwatch`.
    pub fn watch(&self, watcher: Watcher) -> u64 {
        let mut state = self.lock();
        state.next_watcher += 1;
        let number = state.next_watcher;
        state.watchers.insert(number, watcher);
        number
    }

    pub fn unwatch(&self, number: u64) {
        self.lock().watchers.remove(&number);
    }
}

impl State {
    fn leased(&self, now: Duration) -> bool {
        self.lease_until.is_some_and(|until| now < until)
    }

    fn usable(&self, entry: &Entry, now: Duration) -> bool {
        let Version { epoch, position } = &entry.version;
        let reached = |tag| self.changed.get(tag).is_some_and(|changed| position < changed);
        *epoch == self.version.epoch && self.leased(now) && *position >= self.floor && !entry.tags.iter().any(reached)
    }

    fn stands(&self, version: &Version) -> bool {
        version.epoch == self.version.epoch && self.version.position <= version.position
    }

    fn time(&self, now: Duration) -> TimeBounds {
        let passed = |since: Duration| now.saturating_sub(since).as_nanos() as Nanos;
        TimeBounds { lower: self.time.lower + passed(self.received), upper: self.time.upper + passed(self.sent) }
    }

    fn watchers(&self) -> Vec<Watcher> {
        self.watchers.values().cloned().collect()
    }

    fn forget(&mut self, epoch: Vec<u8>) {
        self.lease_until = None;
        self.entries = Ring::new();
        self.refusals = Ring::new();
        self.changed.clear();
        self.floor = 0;
        self.version = Version { epoch, position: -1 };
    }
}

struct Stored<T> {
    value: T,
    since: Duration,
    order: u64,
}

/// A map that forgets the oldest of too many values.
struct Ring<T> {
    of: HashMap<Key, Stored<T>>,
    queue: VecDeque<(Key, u64)>,
    next: u64,
}

impl<T> Ring<T> {
    fn new() -> Self {
        Self { of: HashMap::new(), queue: VecDeque::new(), next: 0 }
    }

    fn put(&mut self, key: Key, value: T, since: Duration) {
        self.next += 1;
        self.of.insert(key, Stored { value, since, order: self.next });
        self.queue.push_back((key, self.next));
        // A key that was stored again since is in the queue once more, further back.
        while self.of.len() > MAX_ENTRIES || self.queue.len() > 2 * MAX_ENTRIES {
            let Some((oldest, order)) = self.queue.pop_front() else { return };
            if self.of.get(&oldest).is_some_and(|kept| kept.order == order) {
                self.of.remove(&oldest);
            }
        }
    }
}
