//! A produce stream to another agent, on behalf of one client's stream. A task reads the answers;
//! when the stream ends, every request without an answer gets an error that says whether it can
//! have been stored.

use std::{collections::BTreeMap, future, sync::Arc};

use futures::StreamExt;
use parking_lot::Mutex;
use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{self, data_service_client::DataServiceClient},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{Duration, Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Streaming};

use super::{admission::ForwardPermit, calls::unknown_agent, client::ClientHeaders, pool::ConnectionLease};

/// How long the other agent may take to answer a request, and to accept a stream. As clients do by
/// default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Retry delay for clients when a request was not sent.
const RETRY_AFTER_MS: u32 = 50;

/// The answer to a forwarded request, or why there is none.
pub(super) type ForwardOutcome = Result<v1::ProduceResponse, Error>;

/// A produce stream to another agent. Ends when dropped.
#[derive(Debug)]
pub(super) struct PeerStream {
    /// The ids of waiting requests. The connection may read them long after the stream was given
    /// up, so the requests themselves are in `unanswered`.
    requests: mpsc::UnboundedSender<u64>,
    unanswered: Arc<UnansweredRequests>,
    next_request: u64,
    task: AbortHandle,
}

impl Drop for PeerStream {
    fn drop(&mut self) {
        self.task.abort();
        self.unanswered.close(&Error::new(
            ErrorCode::NetworkException,
            "the agent that forwards has given up its stream to the leader",
        ));
    }
}

impl PeerStream {
    /// Opens a stream.
    pub(super) fn open(lease: ConnectionLease, client: ClientHeaders, max_answer_bytes: usize) -> Self {
        // The number of waiting requests is bounded by the client's stream, their size by the
        // memory that each holds.
        let (requests, outgoing) = mpsc::unbounded_channel();
        let unanswered = Arc::new(UnansweredRequests::default());
        let task = tokio::spawn(run_stream(
            lease,
            outgoing,
            unanswered.clone(),
            client,
            max_answer_bytes,
        ));
        Self {
            requests,
            unanswered,
            next_request: 1,
            task: task.abort_handle(),
        }
    }

    /// Returns whether requests can be sent.
    pub(super) fn is_open(&self) -> bool {
        self.unanswered.is_open()
    }

    /// Returns whether requests wait for an answer.
    pub(super) fn has_unanswered(&self) -> bool {
        self.unanswered.next_deadline().is_some()
    }

    /// Sends a request. It holds its memory until it is answered.
    pub(super) fn send(
        &mut self,
        mut request: v1::ProduceRequest,
        memory: Arc<ForwardPermit>,
    ) -> oneshot::Receiver<ForwardOutcome> {
        let (answer, outcome) = oneshot::channel();
        let id = self.next_request;
        request.request_id = id;
        self.next_request += 1;
        let waiting = UnansweredRequest {
            unsent: Some(request),
            answer,
            since: Instant::now(),
            _memory: memory,
        };
        if self.unanswered.insert(id, waiting) {
            // Fails only if the stream has just ended, which answers the request.
            let _ = self.requests.send(id);
        }
        outcome
    }
}

#[derive(Debug)]
struct UnansweredRequest {
    /// The request, until it is handed to the connection.
    unsent: Option<v1::ProduceRequest>,
    answer: oneshot::Sender<ForwardOutcome>,
    since: Instant,
    _memory: Arc<ForwardPermit>,
}

/// The requests of a stream that have no answer yet.
#[derive(Debug, Default)]
struct UnansweredRequests {
    state: Mutex<UnansweredState>,
}

#[derive(Debug, Default)]
struct UnansweredState {
    requests: BTreeMap<u64, UnansweredRequest>,
    /// The last request that was handed to the connection: it and those before may have been sent.
    last_sent: u64,
    /// Why the stream has ended. Nothing is handed to the connection from then on.
    ended: Option<Error>,
}

impl UnansweredRequests {
    fn is_open(&self) -> bool {
        self.state.lock().ended.is_none()
    }

    /// Adds a request; a closed stream answers it at once and returns false.
    fn insert(&self, id: u64, request: UnansweredRequest) -> bool {
        let mut state = self.state.lock();
        let Some(ended) = &state.ended else {
            state.requests.insert(id, request);
            return true;
        };
        let error = not_sent_error(ended);
        drop(state);
        let _ = request.answer.send(Err(error));
        false
    }

    /// Takes a request to hand it to the connection. Returns `None` once the stream has ended: what
    /// was answered as not sent must not be sent later.
    fn take_unsent(&self, id: u64) -> Option<v1::ProduceRequest> {
        let mut state = self.state.lock();
        let request = state.requests.get_mut(&id)?.unsent.take()?;
        state.last_sent = id;
        Some(request)
    }

    fn answer(&self, response: v1::ProduceResponse) {
        let request = self.state.lock().requests.remove(&response.request_id);
        if let Some(request) = request {
            let _ = request.answer.send(Ok(response));
        }
    }

    /// Returns when the oldest request should be answered.
    fn next_deadline(&self) -> Option<Instant> {
        let state = self.state.lock();
        let oldest = state.requests.values().next();
        oldest.map(|oldest| oldest.since + ANSWER_TIMEOUT)
    }

    /// Answers every request: the stream has ended with `error`.
    fn close(&self, error: &Error) {
        let (requests, last_sent) = {
            let mut state = self.state.lock();
            state.ended.get_or_insert_with(|| error.clone());
            (std::mem::take(&mut state.requests), state.last_sent)
        };
        let mut too_large = error.code() == ErrorCode::MessageTooLarge;
        for (id, request) in requests {
            let error = if id > last_sent {
                not_sent_error(error)
            } else if error.code() != ErrorCode::MessageTooLarge {
                error.clone()
            } else if std::mem::take(&mut too_large) {
                // The agent answers the requests before, and accepts none after.
                error.clone()
            } else {
                not_sent_error(error)
            };
            let _ = request.answer.send(Err(error));
        }
    }
}

fn not_sent_error(cause: &Error) -> Error {
    let message = format!(
        "the agent that forwards could not send the records to the leader: {}",
        cause.message()
    );
    Error::new(ErrorCode::LeaderNotAvailable, message).with_retry_after_ms(RETRY_AFTER_MS)
}

/// Runs a stream until it ends. The lease is held as long.
async fn run_stream(
    lease: ConnectionLease,
    outgoing: mpsc::UnboundedReceiver<u64>,
    unanswered: Arc<UnansweredRequests>,
    client: ClientHeaders,
    max_answer_bytes: usize,
) {
    // The connection may keep this for longer than the stream lives.
    let source = Arc::downgrade(&unanswered);
    let outgoing = UnboundedReceiverStream::new(outgoing).scan((), move |(), id| {
        future::ready(source.upgrade().and_then(|source| source.take_unsent(id)))
    });
    let mut request = Request::new(outgoing);
    client.add_to(request.metadata_mut());
    let mut service = DataServiceClient::new(lease.channel()).max_decoding_message_size(max_answer_bytes);
    let error = match timeout(ANSWER_TIMEOUT, service.produce(request)).await {
        Ok(Ok(answers)) => read_answers(answers.into_inner(), &unanswered).await,
        Ok(Err(status)) => stream_error(status),
        Err(_) => no_answer_error(),
    };
    tracing::debug!(%error, "a produce stream to another agent ended");
    unanswered.close(&error);
}

/// Passes on a stream's answers until it ends. Returns its error.
async fn read_answers(mut answers: Streaming<v1::ProduceResponse>, unanswered: &UnansweredRequests) -> Error {
    loop {
        let deadline = unanswered.next_deadline();
        let until = deadline.unwrap_or_else(|| Instant::now() + ANSWER_TIMEOUT);
        match timeout_at(until, answers.message()).await {
            Ok(Ok(Some(response))) => unanswered.answer(response),
            Ok(Ok(None)) => {
                return Error::new(ErrorCode::NetworkException, "the leader ended the produce stream");
            }
            Ok(Err(status)) => return stream_error(status),
            Err(_) if unanswered.next_deadline().is_some_and(|at| at <= Instant::now()) => {
                return no_answer_error();
            }
            Err(_) => {}
        }
    }
}

/// Returns the error of the requests in flight on a stream that failed: whether they are stored is
/// unknown, except for one that was too large.
fn stream_error(status: tonic::Status) -> Error {
    let error = Error::from(status);
    if error.code() == ErrorCode::MessageTooLarge {
        return error;
    }
    if matches!(
        error.code(),
        ErrorCode::SaslAuthenticationFailed | ErrorCode::MetadataUnavailable
    ) {
        // A stream is refused before any of its requests is read.
        return Error::new(ErrorCode::LeaderNotAvailable, unknown_agent(&error))
            .with_retry_after_ms(RETRY_AFTER_MS);
    }
    let message = format!("the connection to the leader broke: {}", error.message());
    Error::new(ErrorCode::NetworkException, message)
}

fn no_answer_error() -> Error {
    let message = format!("the leader did not answer the agent that forwards within {ANSWER_TIMEOUT:?}");
    Error::new(ErrorCode::RequestTimedOut, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ByteBudget;

    async fn permit() -> Arc<ForwardPermit> {
        let admission = super::super::admission::ForwardAdmission::new(ByteBudget::new(100), 0);
        Arc::new(admission.acquire(1).await.unwrap())
    }

    /// Adds the requests 1 to `count`, of which `sent` were handed to the connection; returns the
    /// codes with which they are answered when the stream ends with `error`.
    async fn codes(count: u64, sent: u64, error: ErrorCode) -> Vec<ErrorCode> {
        let unanswered = UnansweredRequests::default();
        let mut outcomes = Vec::new();
        for id in 1..=count {
            let (answer, outcome) = oneshot::channel();
            let request = UnansweredRequest {
                unsent: Some(v1::ProduceRequest {
                    request_id: id,
                    ..Default::default()
                }),
                answer,
                since: Instant::now(),
                _memory: permit().await,
            };
            assert!(unanswered.insert(id, request));
            outcomes.push(outcome);
        }
        for id in 1..=sent {
            assert!(unanswered.take_unsent(id).is_some());
        }
        unanswered.close(&Error::new(error, "it ended"));
        assert!(!unanswered.is_open());
        for id in 1..=count {
            let late = unanswered.take_unsent(id);
            assert!(late.is_none(), "answered as not sent, and sent later: {id}");
        }
        let mut codes = Vec::new();
        for outcome in outcomes {
            codes.push(outcome.await.unwrap().unwrap_err().code());
        }
        codes
    }

    #[tokio::test]
    async fn what_was_never_sent_is_certainly_not_stored_and_the_rest_is_unknown() {
        use ErrorCode::{LeaderNotAvailable, MessageTooLarge, NetworkException, RequestTimedOut};
        assert_eq!(
            codes(3, 2, NetworkException).await,
            [NetworkException, NetworkException, LeaderNotAvailable]
        );
        assert_eq!(
            codes(2, 0, RequestTimedOut).await,
            [LeaderNotAvailable, LeaderNotAvailable]
        );
        assert_eq!(
            codes(3, 3, MessageTooLarge).await,
            [MessageTooLarge, LeaderNotAvailable, LeaderNotAvailable],
            "the leader accepts none after the one that is too large"
        );
        assert!(LeaderNotAvailable.has_no_side_effects() && !NetworkException.has_no_side_effects());
    }

    #[tokio::test]
    async fn a_closed_stream_answers_at_once() {
        let unanswered = UnansweredRequests::default();
        unanswered.close(&no_answer_error());
        let (answer, outcome) = oneshot::channel();
        let late = UnansweredRequest {
            unsent: None,
            answer,
            since: Instant::now(),
            _memory: permit().await,
        };
        assert!(!unanswered.insert(1, late));
        let error = outcome.await.unwrap().unwrap_err();
        assert_eq!(error.code(), ErrorCode::LeaderNotAvailable);
    }
}
