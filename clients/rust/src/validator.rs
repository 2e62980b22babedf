use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::pb;

pub(crate) type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);
const CONNECT_AGAIN: Duration = Duration::from_millis(20);

/// A way to the server. A call ends when its future is dropped.
pub(crate) trait Validator: Send + Sync + 'static {
    fn validate(&self, request: pb::ValidateTokenRequest) -> Answer<pb::ValidateTokenResponse>;
    /// The change feed, on a connection that no check shares: checks must not hold it back.
    fn watch(&self, request: pb::WatchChangesRequest) -> Answer<pb::WatchChangesResponse>;
}

pub(crate) struct GrpcValidator {
    checks: Channel,
    feed: Channel,
    /// This service's own credential.
    bearer: Option<MetadataValue<Ascii>>,
}

impl GrpcValidator {
    pub fn new(endpoint: Endpoint, bearer: &str) -> Result<Self, InvalidBearer> {
        let endpoint = endpoint.connect_timeout(CONNECT);
        let bearer = match bearer {
            "" => None,
            token => {
                let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| InvalidBearer)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { checks: endpoint.connect_lazy(), feed: endpoint.connect_lazy(), bearer })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }
}

/// The bearer cannot be sent in a header.
#[derive(Debug)]
pub struct InvalidBearer;

impl std::fmt::Display for InvalidBearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bearer has a character that no header can hold")
    }
}

impl std::error::Error for InvalidBearer {}

impl Validator for GrpcValidator {
    fn validate(&self, message: pb::ValidateTokenRequest) -> Answer<pb::ValidateTokenResponse> {
        let (channel, request) = (self.checks.clone(), self.request(message.clone()));
        let again = self.request(message);
        Box::pin(async move {
            match unary(channel.clone(), request, "/sallyport.v1.TokenValidator/ValidateToken").await {
                Err(error) if not_sent(&error) => {
                    tokio::time::sleep(CONNECT_AGAIN).await;
                    unary(channel, again, "/sallyport.v1.TokenValidator/ValidateToken").await
                }
                answer => answer,
            }
        })
    }

    fn watch(&self, message: pb::WatchChangesRequest) -> Answer<pb::WatchChangesResponse> {
        Box::pin(unary(self.feed.clone(), self.request(message), "/sallyport.v1.TokenValidator/WatchChanges"))
    }
}

async fn unary<A, B>(channel: Channel, request: Request<A>, path: &'static str) -> Result<B, Status>
where
    A: prost::Message + Send + Sync + 'static,
    B: prost::Message + Default + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec: ProstCodec<A, B> = ProstCodec::default();
    client.unary(request, PathAndQuery::from_static(path), codec).await.map(|answer| answer.into_inner())
}

/// True if there was no connection, so that no byte of the request left this process.
fn not_sent(error: &Status) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
