//! Handles one produce request: finds each partition, validates its batches, admits them to bounded
//! memory and passes them to the writer. The answers arrive through the tickets.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use opentelemetry::trace::SpanContext;
use streamhouse_core::{
    Error, ErrorCode, Incarnation,
    protocol::v1,
    time::Clock,
    trace::{SampledSpan, key},
};
use tokio::{
    sync::{OwnedSemaphorePermit, TryAcquireError, oneshot},
    time::{Duration, Instant, sleep, timeout},
};

use super::{AppendRequest, AppendResult, CurrentWriter, WalWriter, batches};
use crate::{
    directory::{ClusterDirectory, ClusterView, DirectoryTopic},
    health::AgentHealth,
    metrics::AgentMetrics,
    partition::LedPartition,
    traces::{self, AgentTraces},
};

/// Name of the method in traces.
const TRACE_METHOD: &str = "streamhouse.v1.DataService/Produce";

/// How long a request may wait for memory before it is refused.
const ADMISSION_TIMEOUT: Duration = Duration::from_millis(250);
/// How often, and how far apart, to look for a partition whose lease this agent has and whose log
/// it is still reading.
const LEASE_ARRIVAL_ATTEMPTS: usize = 25;
const LEASE_ARRIVAL_DELAY: Duration = Duration::from_millis(10);
/// Retry delay for producers when memory is full.
const RETRY_AFTER_MS: u32 = 100;

/// Dependencies of the request handler.
#[derive(Debug, Clone)]
pub struct ProduceDeps {
    /// The writer of the active incarnation.
    pub writer: Arc<CurrentWriter>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// Wall clock that timestamps are checked against.
    pub clock: Arc<dyn Clock>,
    /// Why this agent cannot store records.
    pub health: Arc<AgentHealth>,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Starts the agent's trace spans.
    pub traces: AgentTraces,
}

impl ProduceDeps {
    /// Returns the active incarnation, if there is one.
    fn incarnation(&self) -> Option<Incarnation> {
        self.writer.get().map(|writer| writer.session().incarnation)
    }
}

/// A request in flight: one entry per partition, in the order of the request.
#[derive(Debug)]
pub struct PendingProduce {
    request_id: u64,
    /// The parts of the request, without their records.
    partitions: Vec<(v1::PartitionProduce, AppendTicket)>,
    /// Bytes of the batches that were accepted.
    admitted_bytes: usize,
    /// Ends with the response.
    span: Option<SampledSpan>,
}

#[derive(Debug)]
enum AppendTicket {
    /// With the time of the append if it is the records' timestamp.
    Pending(oneshot::Receiver<AppendResult>, Option<i64>),
    Refused(Error),
}

/// Accepts one request. Its batches have their place in the order when this returns;
/// [`PendingProduce::finish`] returns the response.
pub async fn accept(deps: &ProduceDeps, request: v1::ProduceRequest) -> PendingProduce {
    accept_within(deps, request, ADMISSION_TIMEOUT).await
}

/// Accepts one request as [`accept`] does, and waits up to `admission` for memory.
pub async fn accept_within(
    deps: &ProduceDeps,
    request: v1::ProduceRequest,
    admission: Duration,
) -> PendingProduce {
    let (parent, state) = (request.traceparent.as_bytes(), request.tracestate.as_bytes());
    let mut span = deps.traces.start_call(TRACE_METHOD, parent, Some(state));
    if let Some(span) = &mut span {
        span.set_attribute(key::MESSAGING_SYSTEM, "streamhouse");
        span.set_attribute("streamhouse.partitions", request.partitions.len() as i64);
    }
    let mut partitions = Vec::with_capacity(request.partitions.len());
    let mut admitted_bytes = 0;
    let mut waits = WaitBudget::new(deps, admission);
    for mut part in request.partitions {
        let trace = span.as_ref().map(|span| span.context().clone());
        let records = std::mem::take(&mut part.records);
        let bytes = records.len();
        let outcome = accept_partition(deps, &mut waits, &part, records, trace).await;
        if outcome.is_ok() {
            admitted_bytes += bytes;
        }
        partitions.push((part, outcome.unwrap_or_else(AppendTicket::Refused)));
    }
    PendingProduce {
        request_id: request.request_id,
        partitions,
        admitted_bytes,
        span,
    }
}

/// What one request may wait for, all its partitions together: one refresh of the directory, some
/// time for arriving leases, and some time for memory. A request with many partitions blocks its
/// stream no longer than a request with one.
struct WaitBudget {
    view: Arc<ClusterView>,
    refreshed: bool,
    arrival_looks: usize,
    admission: Duration,
}

impl WaitBudget {
    fn new(deps: &ProduceDeps, admission: Duration) -> Self {
        Self {
            view: deps.directory.view(),
            refreshed: false,
            arrival_looks: LEASE_ARRIVAL_ATTEMPTS,
            admission,
        }
    }
}

async fn accept_partition(
    deps: &ProduceDeps,
    waits: &mut WaitBudget,
    part: &v1::PartitionProduce,
    records: Bytes,
    trace: Option<SpanContext>,
) -> Result<AppendTicket, Error> {
    let (writer, topic, partition) = find_led_partition(deps, waits, part).await?;
    let now_ms = deps.clock.now_ms();
    let mut batches = batches::validate_all(&records, &topic, partition.index, now_ms)?;
    let permit = admit_bytes(deps, &writer, waits, records.len()).await?;
    let (ticket, receiver) = oneshot::channel();
    let (bytes, append_time) = match topic.config.stamps_append_time {
        true => (batches::stamp_all(records, &mut batches, now_ms)?, Some(now_ms)),
        false => (records, None),
    };
    writer.append(AppendRequest {
        partition,
        bytes,
        batches,
        ticket,
        permit,
        received_at: Instant::now(),
        trace,
    });
    Ok(AppendTicket::Pending(receiver, append_time))
}

/// Finds the partition that this agent leads; refreshes the directory if it seems to be led by
/// another agent.
async fn find_led_partition(
    deps: &ProduceDeps,
    waits: &mut WaitBudget,
    wanted: &v1::PartitionProduce,
) -> Result<(Arc<WalWriter>, Arc<DirectoryTopic>, Arc<LedPartition>), Error> {
    if let Some(found) = led_partition(deps, &waits.view, wanted) {
        return Ok(found);
    }
    if !waits.refreshed {
        waits.view = deps.directory.refresh().await;
        waits.refreshed = true;
    }
    loop {
        if let Some(found) = led_partition(deps, &waits.view, wanted) {
            return Ok(found);
        }
        let record = waits
            .view
            .find_partition(&wanted.topic, &wanted.topic_id, wanted.partition);
        let holder = record.ok().and_then(|record| record.holder);
        let arriving = holder.is_some() && holder == deps.incarnation();
        if !arriving || waits.arrival_looks == 0 {
            break;
        }
        // The lease is being acquired or released: the result is known shortly.
        waits.arrival_looks -= 1;
        sleep(LEASE_ARRIVAL_DELAY).await;
        waits.view = deps.directory.view();
    }
    let record = waits
        .view
        .find_partition(&wanted.topic, &wanted.topic_id, wanted.partition)?;
    if waits.view.is_internal(&wanted.topic) {
        let message = format!("topic {:?} is internal", wanted.topic);
        return Err(Error::new(ErrorCode::InvalidTopic, message));
    }
    if record.holder.is_none() {
        // The producer's last error should contain the reason why this agent does not lead.
        let message = match deps.health.storage_problem() {
            Some(why) => {
                format!("the partition has no leader: this agent cannot store records: {why}").into()
            }
            None => Cow::Borrowed("the partition has no leader yet"),
        };
        return Err(Error::new(ErrorCode::LeaderNotAvailable, message).with_retry_after_ms(50));
    }
    Err(super::buffer::not_leader_error())
}

fn led_partition(
    deps: &ProduceDeps,
    view: &ClusterView,
    wanted: &v1::PartitionProduce,
) -> Option<(Arc<WalWriter>, Arc<DirectoryTopic>, Arc<LedPartition>)> {
    let writer = deps.writer.get()?;
    let session = writer.session();
    if session.ended.is_cancelled() {
        return None;
    }
    let record = view.find_partition(&wanted.topic, &wanted.topic_id, wanted.partition);
    let partition = session.partitions.get(record.ok()?.uid);
    let partition = partition.filter(|partition| partition.is_accepting())?;
    Some((writer, view.topic(&wanted.topic)?.clone(), partition))
}

/// Waits for memory within the request's wait budget, and refuses the request if none becomes free.
async fn admit_bytes(
    deps: &ProduceDeps,
    writer: &WalWriter,
    waits: &mut WaitBudget,
    bytes: usize,
) -> Result<OwnedSemaphorePermit, Error> {
    // A batch that is larger than the budget takes all of it.
    let permits = u32::try_from(bytes.min(writer.memory_capacity())).unwrap_or(u32::MAX);
    let memory = writer.memory().clone();
    let full = match memory.clone().try_acquire_many_owned(permits) {
        Ok(permit) => return Ok(permit),
        Err(full) => full,
    };
    let begun = Instant::now();
    if full == TryAcquireError::NoPermits
        && let Ok(Ok(permit)) = timeout(waits.admission, memory.acquire_many_owned(permits)).await
    {
        waits.admission = waits.admission.saturating_sub(begun.elapsed());
        return Ok(permit);
    }
    waits.admission = Duration::ZERO;
    let message = match deps.health.storage_problem() {
        Some(why) => {
            format!("the agent's produce memory is full, since it cannot store records: {why}").into()
        }
        None => Cow::Borrowed("the agent's produce memory is full; slow down"),
    };
    Err(Error::new(ErrorCode::ResourceExhausted, message).with_retry_after_ms(RETRY_AFTER_MS))
}

impl PendingProduce {
    /// Returns the bytes of the batches that were accepted: those that have memory of their own.
    pub fn admitted_bytes(&self) -> usize {
        self.admitted_bytes
    }

    /// Returns whether a batch was refused because there was no memory.
    pub fn lacked_memory(&self) -> bool {
        let full = |error: &Error| error.code() == ErrorCode::ResourceExhausted;
        let mut tickets = self.partitions.iter().map(|(_, ticket)| ticket);
        tickets.any(|ticket| matches!(ticket, AppendTicket::Refused(error) if full(error)))
    }

    /// Waits until every partition has an answer, and returns the response.
    pub async fn finish(mut self, deps: &ProduceDeps) -> v1::ProduceResponse {
        let mut partitions = Vec::with_capacity(self.partitions.len());
        let mut throttle_ms = 0;
        for (part, outcome) in self.partitions {
            let (ack, append_time) = match outcome {
                AppendTicket::Refused(error) => (Err(error), None),
                AppendTicket::Pending(ticket, append_time) => {
                    let ack = ticket.await.unwrap_or_else(|_| Err(dropped_ticket_error()));
                    (ack, append_time)
                }
            };
            if let Err(error) = &ack
                && error.code() == ErrorCode::ResourceExhausted
            {
                throttle_ms = throttle_ms.max(error.retry_after_ms());
            }
            if let (Err(error), Some(span)) = (&ack, &mut self.span) {
                traces::mark_failed(span, error);
            }
            let mut result = partition_result(deps, part, ack);
            result.log_append_time_ms = append_time.filter(|_| result.error.is_none()).unwrap_or_default();
            partitions.push(result);
        }
        v1::ProduceResponse {
            request_id: self.request_id,
            partitions,
            throttle_ms,
        }
    }
}

/// Returns the error for a ticket that was dropped unanswered, perhaps after the commit.
fn dropped_ticket_error() -> Error {
    super::unknown_outcome_error(
        "the agent dropped the write unanswered; it is unknown whether it is stored: send it again",
    )
}

fn partition_result(
    deps: &ProduceDeps,
    part: v1::PartitionProduce,
    ack: AppendResult,
) -> v1::PartitionProduceResult {
    let v1::PartitionProduce {
        topic,
        partition,
        topic_id,
        ..
    } = part;
    match ack {
        Ok(appended) => v1::PartitionProduceResult {
            topic,
            partition,
            error: None,
            base_offset: appended.base_offset,
            log_start_offset: appended.log_start,
            leader: None,
            log_append_time_ms: 0,
        },
        Err(error) => {
            let view = deps.directory.view();
            let me = deps.incarnation();
            let record = view.find_partition(&topic, &topic_id, partition).ok();
            let named = record.filter(|record| record.holder.is_some() && record.holder != me);
            let leader = named
                .filter(|_| error.code() == ErrorCode::NotLeader)
                .map(|record| view.leader(record));
            v1::PartitionProduceResult {
                leader,
                ..v1::PartitionProduceResult::failed(topic, partition, error)
            }
        }
    }
}
