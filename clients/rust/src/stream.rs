use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;

use crate::guard::{Guard, Waiter};
use crate::{Checker, Verdict, refusal_of};

/// The head of a message: a byte of flags, and four of the length.
const HEAD: usize = 5;

/// Closes the guard when the call is over.
pub(crate) struct Closer(pub Arc<Guard>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Finds the ends of messages in data that is cut anywhere.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD],
    /// The bytes of the head so far.
    headed: usize,
    /// The bytes of the message that are still to come, once its head is whole.
    left: usize,
}

impl Frames {
    /// Takes the bytes up to the end of a message, or all of them. True if they end one.
    fn take(&mut self, data: &mut Bytes) -> (Bytes, bool) {
        let mut taken = 0;
        while self.headed < HEAD && taken < data.len() {
            self.head[self.headed] = data[taken];
            (self.headed, taken) = (self.headed + 1, taken + 1);
            if self.headed == HEAD {
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
            }
        }
        let ends = if self.headed == HEAD {
            let more = self.left.min(data.len() - taken);
            (self.left, taken) = (self.left - more, taken + more);
            self.left == 0
        } else {
            false
        };
        if ends {
            self.headed = 0;
        }
        (data.split_to(taken), ends)
    }
}

/// Gives the handler one message at a time, so that none waits behind the guard in the handler's decoder.
pub(crate) struct RequestBody {
    inner: Body,
    guard: Arc<Guard>,
    frames: Frames,
    rest: Bytes,
    /// The end of a message, which waits for the guard.
    held: Option<Bytes>,
}

impl RequestBody {
    pub fn new(inner: Body, guard: Arc<Guard>) -> Self {
        Self { inner, guard, frames: Frames::default(), rest: Bytes::new(), held: None }
    }
}

fn over(verdict: Option<Verdict>) -> Status {
    verdict.map_or_else(|| Status::cancelled("the call is over"), refusal_of)
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(held) = this.held.take() {
                return match this.guard.poll_pass(cx, Waiter::Request) {
                    Poll::Ready(Ok(())) => Poll::Ready(Some(Ok(Frame::data(held)))),
                    Poll::Ready(Err(verdict)) => Poll::Ready(Some(Err(over(verdict)))),
                    Poll::Pending => {
                        this.held = Some(held);
                        Poll::Pending
                    }
                };
            }
            if !this.rest.is_empty() {
                let (piece, ends) = this.frames.take(&mut this.rest);
                if ends {
                    this.held = Some(piece);
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Poll::Ready(verdict) = this.guard.poll_ended(cx, Waiter::Request) {
                return Poll::Ready(Some(Err(over(Some(verdict)))));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.rest.is_empty() && self.inner.is_end_stream()
    }
}

/// The answer of a handler. It ends with the trailers of a refusal when the guard ends the call.
pub(crate) struct ResponseBody {
    /// None: over.
    inner: Option<Body>,
    /// Waits for the guard.
    held: Option<Frame<Bytes>>,
    closer: Closer,
    checker: Arc<Checker>,
}

impl ResponseBody {
    pub fn new(inner: Body, closer: Closer, checker: Arc<Checker>) -> Self {
        if inner.is_end_stream() {
            closer.0.close();
        }
        Self { inner: Some(inner), held: None, closer, checker }
    }

    fn end(&mut self, verdict: Verdict) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        (self.inner, self.held) = (None, None);
        if let Some(hook) = &self.checker.hooks.stream_ended {
            hook(verdict);
        }
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(refusal_of(verdict).add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        if let Poll::Ready(verdict) = this.closer.0.poll_ended(cx, Waiter::Response) {
            return this.end(verdict);
        }
        let frame = match this.held.take() {
            Some(held) => held,
            None => match ready!(Pin::new(inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => {
                    this.inner = None;
                    this.closer.0.close();
                    return Poll::Ready(end);
                }
            },
        };
        match this.closer.0.poll_pass(cx, Waiter::Response) {
            Poll::Ready(Ok(())) => {
                if frame.is_trailers() {
                    this.inner = None;
                    this.closer.0.close();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Err(verdict)) => this.end(verdict.unwrap_or(Verdict::Undetermined)),
            Poll::Pending => {
                this.held = Some(frame);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}
