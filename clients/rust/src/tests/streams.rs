use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tonic::body::Body;

use super::*;
use crate::guard::{Answered, Guard, World};
use crate::stream::{Closer, RequestBody, ResponseBody};

/// A body of given pieces of data.
struct Pieces(VecDeque<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

fn message(text: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((text.len() as u32).to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

fn pieces(bytes: &[u8], size: usize) -> Body {
    Body::new(Pieces(bytes.chunks(size).map(Bytes::copy_from_slice).collect()))
}

struct Guarded {
    cache: Arc<FeedCache>,
    guard: Arc<Guard>,
    asked: Arc<Mutex<Vec<Answered>>>,
}

impl Guarded {
    fn new() -> Self {
        let (_, mono) = hand();
        let cache = Arc::new(FeedCache::new(mono.clone()));
        let asked: Arc<Mutex<Vec<Answered>>> = Arc::default();
        let ask = asked.clone();
        let world = World {
            mono,
            after: Box::new(|_, _| Box::new(|| {})),
            check: Box::new(move |done| ask.lock().unwrap().push(done)),
        };
        let this = |guard| Self { cache: cache.clone(), guard, asked };
        apply(&cache, 5, Vec::new());
        let entry = Entry {
            version: Version { epoch: b"e".to_vec(), position: 5 },
            tags: vec![1],
            facts: Facts::default(),
            identity: Arc::default(),
        };
        this(Guard::start(Some(cache.clone()), Requirement::default(), world, Some(Arc::new(entry))))
    }

    fn revoke(&self) {
        apply(&self.cache, 6, vec![1]);
    }

    fn answer(&self, verdict: Verdict) {
        let done = self.asked.lock().unwrap().remove(0);
        done(Check::refused(verdict, Vec::new()));
    }
}

fn apply(cache: &FeedCache, position: i64, changed: Vec<u64>) {
    let version = Version { epoch: b"e".to_vec(), position };
    let time = Some(TimeBounds::default());
    cache.apply(FeedAnswer { version, lease: Some(Duration::from_secs(1)), changed, floor: 0, time }, Duration::ZERO);
}

fn poll<B: HttpBody<Data = Bytes> + Unpin>(body: &mut B) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

fn data<B: HttpBody<Data = Bytes> + Unpin>(body: &mut B) -> Option<Bytes> {
    match poll(body) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        _ => None,
    }
}

#[test]
fn a_request_is_handed_on_by_messages_however_its_data_is_cut() {
    let all = ["one", "", "three"].map(message).concat();
    for size in 1..=all.len() {
        let guarded = Guarded::new();
        let mut body = RequestBody::new(pieces(&all, size), guarded.guard.clone());
        let mut read = Vec::new();
        while let Some(piece) = data(&mut body) {
            read.extend(piece);
            if read.len() == message("one").len() {
                break;
            }
        }
        assert_eq!(read, message("one"), "pieces of {size}");
        // The rest was there before the change, and its end must wait all the same.
        guarded.revoke();
        while let Some(piece) = data(&mut body) {
            read.extend(piece);
        }
        assert!(read.len() < message("one").len() + message("").len(), "pieces of {size}");
        assert!(poll(&mut body).is_pending());
        guarded.answer(Verdict::InvalidToken);
        let Poll::Ready(Some(Err(status))) = poll(&mut body) else { panic!("the request goes on") };
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
    }
    for size in 1..=all.len() {
        let guarded = Guarded::new();
        let mut body = RequestBody::new(pieces(&all, size), guarded.guard.clone());
        let mut read = Vec::new();
        while let Some(piece) = data(&mut body) {
            read.extend(piece);
        }
        assert_eq!(read, all);
    }
}

#[tokio::test]
async fn an_answer_waits_for_the_new_check_and_ends_with_trailers() {
    let guarded = Guarded::new();
    let endpoint = tonic::transport::Endpoint::from_static("http://127.0.0.1:1");
    let ended = Arc::new(Mutex::new(Vec::new()));
    let told = ended.clone();
    let hooks =
        Hooks { stream_ended: Some(Box::new(move |verdict| told.lock().unwrap().push(verdict))), ..Hooks::default() };
    let checker = Checker::new(endpoint, Options { hooks, ..Options::default() }).unwrap();
    let all = ["one", "two"].map(message).concat();
    let inner = pieces(&all, message("one").len());
    let mut body = ResponseBody::new(inner, Closer(guarded.guard.clone()), checker);
    assert_eq!(data(&mut body).unwrap(), message("one"));
    guarded.revoke();
    assert!(poll(&mut body).is_pending());
    guarded.answer(Verdict::InvalidToken);
    let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else { panic!("no end") };
    let trailers = frame.into_trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "16");
    assert_eq!(trailers[VERDICT_TRAILER], "INVALID_TOKEN");
    assert!(matches!(poll(&mut body), Poll::Ready(None)));
    assert_eq!(*ended.lock().unwrap(), [Verdict::InvalidToken]);
}

#[tokio::test]
async fn nothing_that_can_be_printed_has_a_token_string() {
    let endpoint = tonic::transport::Endpoint::from_static("http://127.0.0.1:1");
    let options = Options { bearer: "sp_secret".into(), ..Options::default() };
    let checker = Checker::new(endpoint.clone(), options).unwrap();
    let layer = AuthLayer::new(checker.clone(), Requirements::default());
    assert!(!format!("{checker:?} {layer:?}").contains("sp_secret"));
    let bad = Options { bearer: "sp_secret\n".into(), ..Options::default() };
    let error = Checker::new(endpoint, bad).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("sp_secret"));
}
