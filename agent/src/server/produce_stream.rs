//! Serves produce streams: requests are accepted in the order sent, several are in flight at once,
//! and responses leave in that order.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use streamhouse_core::{Error, protocol::v1, security::QuotaKey};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until, timeout},
};
use tonic::{Request, Status, Streaming};

use super::{ServerDeps, authorization::take_unwritable};
use crate::{
    forward::{ForwardedProduce, ProduceForwarder, merge_results},
    listeners::CallOrigin,
    metrics::RequestTimer,
    produce::handler,
    security::ClientAccess,
};

/// Maximum number of requests of one produce stream that wait for their response.
pub(super) const MAX_IN_FLIGHT_REQUESTS: usize = 64;
/// How long a client may leave responses unread before its produce stream ends.
const RESPONSE_SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Channel of a stream's responses.
pub(super) type ResponseSender = mpsc::Sender<Result<v1::ProduceResponse, Status>>;

/// Serves one produce stream.
pub(super) async fn serve(
    deps: Arc<ServerDeps>,
    access: ClientAccess,
    request: Request<Streaming<v1::ProduceRequest>>,
    answers: ResponseSender,
) {
    let mut acceptor = StreamAcceptor::new(deps, access.clone(), &request);
    let mut requests = request.into_inner();
    let mut waiting = FuturesOrdered::new();
    let mut open = true;
    let mut broken = None;
    // Until when nothing is read because the client has exceeded its quota.
    let mut muted_until = Instant::now();
    while open || !waiting.is_empty() {
        tokio::select! {
            biased;
            Some(answer) = waiting.next(), if !waiting.is_empty() => {
                // The client has disconnected or does not read: what was accepted is still written.
                if !matches!(timeout(RESPONSE_SEND_TIMEOUT, answers.send(Ok(answer))).await, Ok(Ok(()))) {
                    return;
                }
            }
            () = sleep_until(muted_until), if muted_until > Instant::now() => {}
            request = requests.next(), if open && muted_until <= Instant::now() && waiting.len() < MAX_IN_FLIGHT_REQUESTS => match request {
                Some(Ok(request)) => match access.check_current() {
                    Ok(()) => {
                        let delay = acceptor.record_use(&request);
                        muted_until = Instant::now() + delay;
                        waiting.push_back(acceptor.accept(request, delay).await);
                    }
                    Err(error) => {
                        broken = Some(error.into());
                        open = false;
                    }
                },
                Some(Err(status)) => {
                    tracing::debug!(%status, "a produce stream failed");
                    broken = Some(status);
                    open = false;
                }
                None => open = false,
            },
        }
    }
    // The client learns why its stream ended after the responses to the requests before.
    if let Some(status) = broken {
        let _ = timeout(
            RESPONSE_SEND_TIMEOUT,
            answers.send(Err(Error::from(status).into())),
        )
        .await;
    }
}

/// Accepts the requests of one stream.
struct StreamAcceptor {
    deps: Arc<ServerDeps>,
    access: ClientAccess,
    origin: CallOrigin,
    /// `None` if nothing of this stream may be forwarded.
    forwarder: Option<ProduceForwarder>,
}

impl StreamAcceptor {
    fn new<T>(deps: Arc<ServerDeps>, access: ClientAccess, request: &Request<T>) -> Self {
        let origin = CallOrigin::of(request);
        let forwarder = origin
            .may_forward()
            .then(|| ProduceForwarder::new(deps.forward.clone(), origin.clone(), access.clone()));
        Self {
            deps,
            access,
            origin,
            forwarder,
        }
    }

    /// Records the size of a request, and returns how long the client is to be throttled. Those of
    /// forwarded requests were recorded by the agent that forwards them.
    fn record_use(&self, request: &v1::ProduceRequest) -> Duration {
        if self.origin.is_forwarded() || !self.access.has_quotas() {
            return Duration::ZERO;
        }
        let bytes: usize = request.partitions.iter().map(|part| part.records.len()).sum();
        let (key, client_id) = (QuotaKey::ProducerByteRate, self.access.client_id());
        self.access.record_use(key, client_id, bytes as f64)
    }

    /// Accepts a request, whose batches then have their place in the order. Returns its response,
    /// which tells the client for how long it is throttled.
    async fn accept(
        &mut self,
        mut request: v1::ProduceRequest,
        delay: Duration,
    ) -> BoxFuture<'static, v1::ProduceResponse> {
        let timer = self.deps.metrics.start_request("Produce");
        let denied = take_unwritable(&self.access, &mut request.partitions);
        let forwarded = match &mut self.forwarder {
            Some(forwarder) => forwarder.forward(&mut request).await,
            None => ForwardedProduce::default(),
        };
        let pending = handler::accept(&self.deps.produce, request).await;
        let (deps, origin) = (self.deps.clone(), self.origin.clone());
        let responding = respond(deps.clone(), origin, pending, forwarded, timer);
        let with_denied = responding.map(move |mut response| {
            for (_, result) in &denied {
                deps.metrics.record_result("Produce", result.error.as_ref());
            }
            merge_results(&mut response.partitions, denied);
            let delay_ms = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
            response.throttle_ms = response.throttle_ms.max(delay_ms);
            response
        });
        with_denied.boxed()
    }
}

async fn respond(
    deps: Arc<ServerDeps>,
    origin: CallOrigin,
    pending: handler::PendingProduce,
    forwarded: ForwardedProduce,
    _timer: RequestTimer,
) -> v1::ProduceResponse {
    let mut response = pending.finish(&deps.produce).await;
    for result in &mut response.partitions {
        origin.translate_leader(&mut result.leader);
        // Those of forwarded parts are added later: the agent that leads counts them.
        deps.metrics.record_result("Produce", result.error.as_ref());
    }
    let throttle_ms = forwarded
        .finish(&deps.forward, &origin, &mut response.partitions)
        .await;
    response.throttle_ms = response.throttle_ms.max(throttle_ms);
    response
}
