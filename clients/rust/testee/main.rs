//! An echo service for the tests of the client. SALLYPORT is the address of the data listener; CACHE is off or feed. It
//! prints its port, and ends with its input.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use sallyport::{AuthLayer, Checker, Hooks, Options, Requirement, Requirements, Verdict, identity_of};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::{
    ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

type Counts = Arc<Mutex<BTreeMap<String, u64>>>;
type Later<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;
type Texts = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

fn count(seen: &Counts, what: String) {
    *seen.lock().expect("never panics").entry(what).or_default() += 1;
}

/// The caller, as a handler sees it.
struct Caller {
    principal: String,
    credentials: String,
}

impl Caller {
    fn of<T>(request: &Request<T>) -> Self {
        let principal = identity_of(request).map_or("", |identity| &identity.principal);
        let credentials: Vec<_> = request.metadata().get_all("authorization").iter().collect();
        Self { principal: principal.into(), credentials: format!("{credentials:?}") }
    }

    fn said(&self, text: &str) -> String {
        format!("[{text:?}, {:?}, {}]", self.principal, self.credentials)
    }
}

fn streamed(texts: impl Stream<Item = Result<String, Status>> + Send + 'static) -> Later<Response<Texts>> {
    Box::pin(async { Ok(Response::new(Box::pin(texts) as Texts)) })
}

#[derive(Clone)]
struct Echo(Counts);

impl NamedService for Echo {
    const NAME: &'static str = "test.v1.Echo";
}

impl UnaryService<String> for Echo {
    type Response = String;
    type Future = Later<Response<String>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let answer = Caller::of(&request).said(request.get_ref());
        Box::pin(async { Ok(Response::new(answer)) })
    }
}

impl ClientStreamingService<String> for Echo {
    type Response = String;
    type Future = Later<Response<String>>;

    fn call(&mut self, mut request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async move {
            let mut all = Vec::new();
            while let Some(text) = request.get_mut().message().await? {
                all.push(text);
            }
            Ok(Response::new(Caller::of(&request).said(&all.join(" "))))
        })
    }
}

/// How often each tier, verdict and state was reported by the hooks.
struct Seen(Counts);

impl UnaryService<String> for Seen {
    type Response = String;
    type Future = Later<Response<String>>;

    fn call(&mut self, _: Request<String>) -> Self::Future {
        let answer = format!("{:?}", self.0.lock().expect("never panics"));
        Box::pin(async { Ok(Response::new(answer)) })
    }
}

/// Echoes each message. A stubborn one goes on after the end of its messages by an error.
struct Talk {
    stubborn: bool,
}

impl StreamingService<String> for Talk {
    type Response = String;
    type ResponseStream = Texts;
    type Future = Later<Response<Texts>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        let (caller, stubborn) = (Caller::of(&request), self.stubborn);
        streamed(request.into_inner().map(move |text| match text {
            Err(_) if stubborn => Ok(caller.said("after the end")),
            text => text.map(|text| caller.said(&text)),
        }))
    }
}

/// Answers once, and goes on with these.
struct Once(Texts);

impl ServerStreamingService<String> for Once {
    type Response = String;
    type ResponseStream = Texts;
    type Future = Later<Response<Texts>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let first = Caller::of(&request).said(request.get_ref());
        let rest = std::mem::replace(&mut self.0, Box::pin(tokio_stream::empty()));
        streamed(tokio_stream::once(Ok(first)).chain(rest))
    }
}

fn without_end() -> Once {
    Once(Box::pin(tokio_stream::iter(0u64..).map(|number| Ok(format!("{number} {}", "x".repeat(10_000))))))
}

fn stuck() -> Once {
    Once(Box::pin(tokio_stream::pending()))
}

fn gone() -> Once {
    Once(Box::pin(tokio_stream::once(Err(Status::not_found("gone")))))
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<String, String>::default());
            Ok(match request.uri().path().rsplit('/').next() {
                Some("Seen") => grpc.unary(Seen(echo.0), request).await,
                Some("Talk") => grpc.streaming(Talk { stubborn: false }, request).await,
                Some("Stubborn") => grpc.streaming(Talk { stubborn: true }, request).await,
                Some("Count") => grpc.server_streaming(without_end(), request).await,
                Some("Stuck") => grpc.server_streaming(stuck(), request).await,
                Some("Gone") => grpc.server_streaming(gone(), request).await,
                Some("Total") => grpc.client_streaming(echo, request).await,
                _ => grpc.unary(echo, request).await,
            })
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seen = Counts::default();
    let (checked, lease, feed, ended) = (seen.clone(), seen.clone(), seen.clone(), seen.clone());
    let hooks = Hooks {
        checked: Some(Box::new(move |verdict: Verdict, tier, _| count(&checked, format!("{tier} {}", verdict.name())))),
        lease: Some(Box::new(move |_| count(&lease, "lease".into()))),
        feed: Some(Box::new(move |state| count(&feed, state.into()))),
        stream_ended: Some(Box::new(move |verdict| count(&ended, format!("ended {}", verdict.name())))),
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", std::env::var("SALLYPORT")?))?;
    let options = Options { feed: std::env::var("CACHE")? == "feed", hooks, ..Options::default() };
    let checker = Checker::new(endpoint, options)?;
    let requirements = Requirements::new([
        ("test.v1.Echo/Read", Requirement::scopes(["history:read"])),
        ("test.v1.Echo/Write", Requirement::scopes(["orders.write"])),
        ("test.v1.Echo/Audience", Requirement { audience: "orders".into(), ..Requirement::default() }),
        ("test.v1.Echo/Tenant", Requirement { tenant: "another".into(), ..Requirement::default() }),
        ("test.v1.Echo/Seen", Requirement::public()),
    ])?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{{\"port\":{}}}", listener.local_addr()?.port());
    let server = Server::builder()
        .layer(AuthLayer::new(checker.clone(), requirements))
        .add_service(Echo(seen.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::select! {
        served = server => served?,
        _ = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())) => {}
    }
    checker.close().await;
    println!("{{\"left\":{}}}", seen.lock().expect("never panics").get("left").copied().unwrap_or(0));
    Ok(())
}
