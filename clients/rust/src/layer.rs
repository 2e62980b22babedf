use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower_layer::Layer;
use tower_service::Service;

use crate::guard::{Guard, Waiter, World};
use crate::stream::{Closer, RequestBody, ResponseBody};
use crate::{Check, Checker, Identity, Origin, Requirement, Requirements, Verdict, refusal_of};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type AddressOf = dyn Fn(&http::Extensions, &HeaderMap) -> String + Send + Sync;

/// A layer for a tonic server that checks each call before its handler starts, and guards it to its end.
#[derive(Clone)]
pub struct AuthLayer {
    auth: Arc<Auth>,
}

struct Auth {
    checker: Arc<Checker>,
    requirements: Requirements,
    client_address: Box<AddressOf>,
}

impl AuthLayer {
    pub fn new(checker: Arc<Checker>, requirements: Requirements) -> Self {
        let client_address = Box::new(|extensions: &http::Extensions, _: &HeaderMap| peer_of(extensions));
        Self { auth: Arc::new(Auth { checker, requirements, client_address }) }
    }

    /// For services behind a proxy: the client's IP address, without a port. Otherwise it is the connection's peer.
    pub fn client_address(self, of: impl Fn(&http::Extensions, &HeaderMap) -> String + Send + Sync + 'static) -> Self {
        let (checker, requirements) = (self.auth.checker.clone(), self.auth.requirements.clone());
        Self { auth: Arc::new(Auth { checker, requirements, client_address: Box::new(of) }) }
    }
}

impl fmt::Debug for AuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer").finish_non_exhaustive()
    }
}

/// The identity that admitted a call, in its handler; `None` for a public method.
pub fn identity_of<T>(request: &tonic::Request<T>) -> Option<&Identity> {
    request.extensions().get::<Arc<Identity>>().map(Arc::as_ref)
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService { inner, auth: self.auth.clone() }
    }
}

/// What [`AuthLayer`] makes of a service.
#[derive(Clone)]
pub struct AuthService<S> {
    inner: S,
    auth: Arc<Auth>,
}

impl<S, B> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        // The one that is ready.
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let auth = self.auth.clone();
        let request = request.map(Body::new);
        Box::pin(async move {
            let requirement = auth.requirements.of(request.uri().path());
            if requirement.public {
                return inner.call(request).await;
            }
            match auth.admit(request, requirement).await {
                Ok((request, guard)) => auth.run(inner.call(request), guard).await,
                Err(verdict) => Ok(refusal_of(verdict).into_http()),
            }
        })
    }
}

impl Auth {
    /// Checks a request. The one for the handler has the identity, and not the credential.
    async fn admit(
        &self,
        mut request: Request<Body>,
        requirement: Requirement,
    ) -> Result<(Request<Body>, Arc<Guard>), Verdict> {
        let Some(token) = bearer_of(request.headers()) else {
            if let Some(hook) = &self.checker.hooks.checked {
                hook(Verdict::NoCredential, "offline", std::time::Duration::ZERO);
            }
            return Err(Verdict::NoCredential);
        };
        let origin = Origin {
            client_address: (self.client_address)(request.extensions(), request.headers()),
            path: request.uri().path().to_owned(),
        };
        let check = self.checker.check(&token, &requirement, &origin).await;
        let (Verdict::Allow, Some(identity)) = (check.verdict, check.identity.clone()) else {
            return Err(check.verdict);
        };
        request.headers_mut().remove(AUTHORIZATION);
        request.extensions_mut().insert(identity);
        let guard = self.guard(token, requirement, origin, check);
        let request = request.map(|body| Body::new(RequestBody::new(body, guard.clone())));
        Ok((request, guard))
    }

    fn guard(&self, token: Arc<str>, requirement: Requirement, origin: Origin, opened: Check) -> Arc<Guard> {
        let (checker, required) = (self.checker.clone(), requirement.clone());
        let world = World {
            mono: self.checker.mono.clone(),
            after: Box::new(|time, then| {
                let task = tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    then();
                });
                Box::new(move || task.abort())
            }),
            check: Box::new(move |done| {
                let (checker, token, required, origin) =
                    (checker.clone(), token.clone(), required.clone(), origin.clone());
                tokio::spawn(async move { done(checker.check(&token, &required, &origin).await) });
            }),
        };
        Guard::start(self.checker.cache.clone(), requirement, world, opened.entry)
    }

    /// Runs the handler until it answers, or until the guard ends the call.
    async fn run<E>(
        &self,
        handler: impl Future<Output = Result<Response<Body>, E>>,
        guard: Arc<Guard>,
    ) -> Result<Response<Body>, E> {
        let closer = Closer(guard.clone());
        let mut handler = pin!(handler);
        let answered = poll_fn(|cx| {
            if let Poll::Ready(verdict) = guard.poll_ended(cx, Waiter::Call) {
                return Poll::Ready(Err(verdict));
            }
            handler.as_mut().poll(cx).map(Ok)
        });
        let response = match answered.await {
            Ok(response) => response?,
            Err(verdict) => return Ok(self.end(verdict)),
        };
        // A refusal by the handler has its status in the head, which waits as a message does.
        match poll_fn(|cx| guard.poll_pass(cx, Waiter::Call)).await {
            Ok(()) => {
                let checker = self.checker.clone();
                Ok(response.map(|body| Body::new(ResponseBody::new(body, closer, checker))))
            }
            Err(verdict) => Ok(self.end(verdict.unwrap_or(Verdict::Undetermined))),
        }
    }

    fn end(&self, verdict: Verdict) -> Response<Body> {
        if let Some(hook) = &self.checker.hooks.stream_ended {
            hook(verdict);
        }
        refusal_of(verdict).into_http()
    }
}

/// The token string; `None` if there is not exactly one, of the scheme Bearer.
fn bearer_of(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let token = rest.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains([' ', '\t', ',']) {
        return None;
    }
    Some(token.into())
}

fn peer_of(extensions: &http::Extensions) -> String {
    let address = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    #[cfg(feature = "tls")]
    let address = address.or_else(|| {
        use tonic::transport::server::TlsConnectInfo;
        extensions.get::<TlsConnectInfo<TcpConnectInfo>>().and_then(|info| info.get_ref().remote_addr())
    });
    address.map_or_else(String::new, |address: SocketAddr| address.ip().to_canonical().to_string())
}
