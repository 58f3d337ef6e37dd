//! Forwards single calls: those of consumer groups to their coordinator, and deletions of records
//! to the partition's leader.

use std::future::Future;

use prost::Message;
use streamhouse_core::{
    Error, ErrorCode,
    protocol::ERROR_CODE_HEADER,
    trace::{TRACEPARENT, TRACESTATE},
};
use streamhouse_metadata::AgentEntry;
use tokio::time::{Duration, timeout};
use tonic::{Request, Response, Status, transport::Channel};

use super::{PeerForwarder, client::ClientHeaders};
use crate::metrics::ForwardKind;
use crate::security::ClientAccess;

/// How long a call may take that waits for no members of a group, and how much longer than its
/// members may take one that does.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Memory that a call takes besides its message.
const CALL_OVERHEAD_BYTES: usize = 1024;
/// Request headers that are forwarded: the deadline and the trace context.
const FORWARDED_HEADERS: [&str; 3] = ["grpc-timeout", TRACEPARENT, TRACESTATE];

impl PeerForwarder {
    /// Makes a client's call at another agent, and returns its answer. It ends with the client's
    /// deadline and when the client goes away, and after `limit`.
    ///
    /// # Errors
    /// The other agent's; `ResourceExhausted` if too much is forwarded; `NetworkException` if the
    /// agent does not answer.
    pub async fn call<Req, Res, Fut>(
        &self,
        peer: &AgentEntry,
        request: Request<Req>,
        limit: Duration,
        call: impl FnOnce(Channel, Request<Req>) -> Fut,
    ) -> Result<Response<Res>, Status>
    where
        Req: Message,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let called = self.try_call(peer, request, limit, call).await;
        called.map_err(|error| {
            let metrics = &self.deps.metrics;
            metrics.forward.record_error(ForwardKind::Call, error.code());
            if matches!(error.code(), ErrorCode::NotCoordinator | ErrorCode::NotLeader) {
                self.deps.directory.request_refresh();
            }
            error.into()
        })
    }

    async fn try_call<Req, Res, Fut>(
        &self,
        peer: &AgentEntry,
        request: Request<Req>,
        limit: Duration,
        call: impl FnOnce(Channel, Request<Req>) -> Fut,
    ) -> Result<Response<Res>, Error>
    where
        Req: Message,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let bytes = request.get_ref().encoded_len();
        let memory = bytes.saturating_mul(2).saturating_add(CALL_OVERHEAD_BYTES);
        let _memory = self.admission.acquire_call(memory).await?;
        let client = self.client_headers(&ClientAccess::of(&request)?);
        let view = self.deps.directory.view();
        let lease = self.pool.lease(&view, peer, ForwardKind::Call)?;
        self.deps.metrics.forward.record_request(ForwardKind::Call, 0);
        let calling = call(lease.channel(), outgoing_request(request, client));
        let answered = timeout(limit, calling).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorCode::RequestTimedOut, format!("no answer in {limit:?}")).into())
        });
        let answer = answered.map_err(|status| call_error(status, peer))?;
        Ok(Response::new(answer.into_inner()))
    }
}

fn outgoing_request<T>(request: Request<T>, client: ClientHeaders) -> Request<T> {
    let (received, _, message) = request.into_parts();
    let mut outgoing = Request::new(message);
    let metadata = outgoing.metadata_mut();
    for header in FORWARDED_HEADERS {
        if let Some(value) = received.get(header) {
            metadata.insert(header, value.clone());
        }
    }
    client.add_to(metadata);
    outgoing
}

/// Returns the error of a failed call: the other agent's own, or one of the connection, after which
/// it is unknown whether the call had an effect.
fn call_error(status: Status, peer: &AgentEntry) -> Error {
    let from_agent = status.metadata().contains_key(ERROR_CODE_HEADER);
    let error = Error::from(status);
    if error.code() == ErrorCode::SaslAuthenticationFailed {
        // The client is known: it is this agent that is not.
        return Error::new(ErrorCode::CoordinatorNotAvailable, unknown_agent(&error));
    }
    if from_agent || error.code() == ErrorCode::MessageTooLarge {
        return error;
    }
    let message = format!(
        "agent {} did not answer the agent that forwards: {}",
        peer.agent_id,
        error.message()
    );
    Error::new(ErrorCode::NetworkException, message)
}

/// Returns what is said of an agent that does not accept this one.
pub(super) fn unknown_agent(error: &Error) -> String {
    format!("the leader does not accept this agent: {}", error.message())
}
