use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cache::{FeedAnswer, FeedCache, Mono, Version};
use crate::checker::{Hooks, nanos};
use crate::decide::TimeBounds;
use crate::pb;
use crate::validator::Validator;

/// The longest wait for an answer; a later one is ignored.
const GIVE_UP: Duration = Duration::from_millis(1500);
const LEAVE: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Follows the change feed for a cache: one request in flight, and the next only after its answer is applied.
pub(crate) struct Follower {
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Follower {
    pub fn start(validator: Arc<dyn Validator>, cache: Arc<FeedCache>, mono: Mono, hooks: Arc<Hooks>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let run = Run {
            validator,
            cache,
            mono,
            hooks,
            cache_id: new_uuid(),
            instance_id: String::new(),
            sequence: 0,
            state: "",
        };
        Self { stop, task: Some(tokio::spawn(run.run(stopped))) }
    }

    /// Ends the lease and tells the server, so that no change waits for this cache.
    pub async fn leave(&mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

struct Run {
    validator: Arc<dyn Validator>,
    cache: Arc<FeedCache>,
    mono: Mono,
    hooks: Arc<Hooks>,
    cache_id: String,
    instance_id: String,
    sequence: u64,
    state: &'static str,
}

impl Run {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            // A checker that is dropped leaves too.
            _ = stopped.wait_for(|stop| *stop) => {}
            () = self.follow() => {}
        }
        self.cache.drop_lease();
        let request = self.request(true);
        // Without an answer the server waits for the end of the lease that it gave.
        let _ = timeout(LEAVE, self.validator.watch(request)).await;
        self.enter("left");
    }

    async fn follow(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.once().await {
                pause = FIRST_PAUSE;
                self.enter("following");
                continue;
            }
            self.enter("lost");
            sleep(pause / 2 + (pause / 2).mul_f64(random_fraction())).await;
            pause = LONGEST_PAUSE.min(2 * pause);
        }
    }

    async fn once(&mut self) -> bool {
        let request = self.request(false);
        let sequence = request.sequence;
        let sent = (self.mono)(); // before the send: a lease counts from here
        let Ok(Ok(answer)) = timeout(GIVE_UP, self.validator.watch(request)).await else { return false };
        if answer.sequence != sequence || answer.epoch.is_empty() {
            return false;
        }
        self.instance_id.clone_from(&answer.instance_id);
        self.cache.apply(feed_answer(answer), sent);
        if let Some(hook) = &self.hooks.lease {
            hook(self.cache.lease());
        }
        true
    }

    fn request(&mut self, leaving: bool) -> pb::WatchChangesRequest {
        self.sequence += 1;
        let applied = self.cache.applied();
        pb::WatchChangesRequest {
            cache_id: self.cache_id.clone(),
            sequence: self.sequence,
            position: if applied.epoch.is_empty() { 0 } else { applied.position },
            epoch: applied.epoch,
            instance_id: self.instance_id.clone(),
            leaving,
        }
    }

    fn enter(&mut self, state: &'static str) {
        if self.state != state {
            self.state = state;
            if let Some(hook) = &self.hooks.feed {
                hook(state);
            }
        }
    }
}

fn feed_answer(answer: pb::WatchChangesResponse) -> FeedAnswer {
    FeedAnswer {
        version: Version { epoch: answer.epoch, position: answer.position },
        lease: answer.lease.and_then(|lease| Duration::try_from(lease).ok()),
        changed: answer.changed,
        floor: answer.floor,
        time: match (answer.time_lower, answer.time_upper) {
            (Some(lower), Some(upper)) => Some(TimeBounds { lower: nanos(&lower), upper: nanos(&upper) }),
            _ => None,
        },
    }
}

/// Random bytes from the keys of the standard library's hash maps: good enough for a name and for a pause.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

fn random_fraction() -> f64 {
    (random() >> 11) as f64 / (1u64 << 53) as f64
}

fn new_uuid() -> String {
    let (high, low) = (random(), random());
    let (high, low) = (high & !0xf000 | 0x4000, low & !(3 << 62) | 1 << 63);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
