//! The dispatcher's handling of agents' answers, and of streams that end without one.

use std::time::Duration;

use streamhouse_core::{Error as ClusterError, ErrorCode, protocol::v1, trace::SampledSpan};
use tokio::time::Instant;

use super::{
    agent_link::InflightRequest,
    dispatcher::Dispatcher,
    partition_sender::{BatchVerdict, SendAttempt},
};
use crate::connection::item_error;

/// Smallest limit on requests, however large a request was that an agent refused.
const MIN_REQUEST_BYTES: usize = 64 << 10;
/// Shortest time between two log messages about the same problem.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

impl Dispatcher {
    /// Handles an agent's answer to a request.
    pub(super) fn handle_response(&mut self, link: usize, stream: u64, response: v1::ProduceResponse) {
        let now = Instant::now();
        let Some(from) = self.links.get_mut(link).filter(|link| link.stream == stream) else {
            return;
        };
        let Some(mut sent) = from.in_flight.remove(&response.request_id) else {
            return;
        };
        from.backoff.reset();
        if response.throttle_ms > 0 {
            from.pause(now, Duration::from_millis(response.throttle_ms.into()));
        }
        let took = now.saturating_duration_since(sent.at);
        let mut results: Vec<Option<v1::PartitionProduceResult>> =
            response.partitions.into_iter().map(Some).collect();
        for (at, (lane, flight)) in sent.batches.into_iter().enumerate() {
            let result = self.take_result(&mut results, at, lane);
            record_span_failure(sent.span.as_mut(), result.as_ref());
            self.lanes[lane].topic.metrics.record_flush(took);
            self.handle_result(link, lane, flight, result);
            self.schedule(lane);
        }
    }

    /// Returns the result for a lane: at its index, or wherever the agent put it.
    fn take_result(
        &self,
        results: &mut [Option<v1::PartitionProduceResult>],
        at: usize,
        lane: usize,
    ) -> Option<v1::PartitionProduceResult> {
        let partition = &self.lanes[lane].partition;
        let matches = |result: &Option<v1::PartitionProduceResult>| {
            result
                .as_ref()
                .is_some_and(|r| r.partition == partition.index && *r.topic == *partition.topic)
        };
        let place = if results.get(at).is_some_and(matches) {
            Some(at)
        } else {
            results.iter().position(matches)
        };
        place.and_then(|place| results[place].take())
    }

    fn handle_result(
        &mut self,
        link: usize,
        lane: usize,
        flight: SendAttempt,
        result: Option<v1::PartitionProduceResult>,
    ) {
        let Some(result) = result else {
            let error = ClusterError::new(
                ErrorCode::NetworkException,
                "the agent left the partition out of its answer",
            );
            return self.handle_failure(lane, flight, error);
        };
        if let Some(error) = item_error(result.error) {
            let partition = self.lanes[lane].partition.clone();
            let cache = self.shared.client.cache();
            let news = cache.apply_leader_hint(&partition.topic, partition.index, result.leader.as_ref());
            if !news && is_stale_leader_code(error.code()) {
                cache.request_refresh();
            }
            let leader = cache.leader(&partition.topic, partition.index);
            let elsewhere = leader.is_some_and(|leader| leader.uri != self.links[link].uri);
            let before = self.lanes[lane].not_before;
            self.handle_failure(lane, flight, error);
            if elsewhere {
                // Another agent leads: retry there without a delay.
                self.lanes[lane].not_before = before;
            }
            return;
        }
        if result.leader.is_some() {
            // The agent has forwarded the batch, and the leader can be reached directly.
            let partition = self.lanes[lane].partition.clone();
            let cache = self.shared.client.cache();
            cache.apply_leader_hint(&partition.topic, partition.index, result.leader.as_ref());
        }
        if let BatchVerdict::Settled(settled) =
            self.lanes[lane].sender.handle_stored(flight, result.base_offset)
        {
            self.settle(lane, *settled);
        }
    }

    /// Handles a batch that was not acknowledged.
    pub(super) fn handle_failure(&mut self, lane: usize, flight: SendAttempt, error: ClusterError) {
        if error.code() == ErrorCode::MessageTooLarge && self.send_in_parts(lane, flight) {
            return;
        }
        let sequence = matches!(
            error.code(),
            ErrorCode::OutOfOrderSequenceNumber | ErrorCode::UnknownProducerId
        );
        let asked = Duration::from_millis(error.retry_after_ms().into());
        let unstored = matches!(
            error.code(),
            ErrorCode::StorageUnavailable | ErrorCode::MetadataUnavailable
        )
        .then(|| error.to_string());
        match self.lanes[lane].sender.handle_failure(flight, error) {
            BatchVerdict::Settled(settled) => self.settle(lane, *settled),
            BatchVerdict::Stale => {}
            BatchVerdict::Retry => {
                if let Some(problem) = unstored {
                    self.log_storage_error(&problem);
                }
                let entry = &mut self.lanes[lane];
                // A batch rejected only because an earlier one failed does not delay the lane
                // longer than that one.
                if sequence && entry.sender.in_flight() > 0 {
                    return;
                }
                let pause = self
                    .shared
                    .client
                    .backoff()
                    .delay_after(entry.sender.tries(), asked);
                let until = Instant::now() + pause;
                entry.not_before = Some(entry.not_before.map_or(until, |at| at.max(until)));
            }
        }
    }

    /// Logs from time to time why records wait, long before they time out.
    fn log_storage_error(&mut self, problem: &str) {
        let now = Instant::now();
        let lately = |at: Instant| now.saturating_duration_since(at) < LOG_INTERVAL;
        if !self.storage_error_logged_at.is_some_and(lately) {
            self.storage_error_logged_at = Some(now);
            tracing::error!(problem, "the cluster cannot store records; retrying");
        }
    }

    /// Handles the end of a stream.
    pub(super) fn handle_stream_end(&mut self, link: usize, stream: u64, error: &ClusterError) {
        if self.links.get(link).is_some_and(|link| link.stream == stream) {
            tracing::debug!(agent = %self.links[link].uri, %error, "a produce stream ended");
            self.reset_link(link, error);
        }
    }

    /// Handles an agent that took too long to answer.
    pub(super) fn handle_timeout(&mut self, link: usize, waited: Duration) {
        tracing::warn!(agent = %self.links[link].uri, ?waited, "an agent does not answer; reconnecting");
        let error = ClusterError::new(ErrorCode::RequestTimedOut, format!("no answer in {waited:?}"));
        self.reset_link(link, &error);
    }

    /// Closes the link's stream and sends the batches in flight again. Whether they were stored is
    /// unknown, whatever the error.
    fn reset_link(&mut self, link: usize, error: &ClusterError) {
        let pause = self.links[link]
            .backoff
            .next_delay(Duration::from_millis(error.retry_after_ms().into()));
        self.links[link].pause(Instant::now(), pause);
        let too_large = error.code() == ErrorCode::MessageTooLarge;
        let lost = ClusterError::new(
            // An agent answers the requests it accepted before it reports this, and accepts none
            // after.
            if too_large {
                ErrorCode::ShuttingDown
            } else {
                ErrorCode::NetworkException
            },
            format!("the produce stream ended: {error}"),
        );
        let mut sent = self.links[link].close();
        self.shared.client.cache().request_refresh();
        for span in sent.iter_mut().filter_map(|sent| sent.span.as_mut()) {
            span.set_error(error.code().name(), error.to_string());
        }
        if too_large {
            self.handle_request_too_large(link, &mut sent, error, &lost);
        }
        let lanes: Vec<_> = sent
            .into_iter()
            .flat_map(|InflightRequest { batches, .. }| batches)
            .collect();
        for (lane, flight) in &lanes {
            match self.lanes[*lane].sender.handle_failure(*flight, lost.clone()) {
                BatchVerdict::Settled(settled) => self.settle(*lane, *settled),
                BatchVerdict::Retry | BatchVerdict::Stale => {}
            }
        }
        for (lane, _) in lanes {
            self.schedule(lane);
        }
    }
}

impl Dispatcher {
    /// Handles a stream that the agent ended because a request was too large: the first one not
    /// answered. Lowers the link's request size; a batch that was alone in the request is split, or
    /// fails.
    fn handle_request_too_large(
        &mut self,
        link: usize,
        sent: &mut Vec<InflightRequest>,
        error: &ClusterError,
        again: &ClusterError,
    ) {
        if sent.is_empty() {
            return;
        }
        let refused = sent.remove(0);
        let half = (refused.bytes / 2).max(MIN_REQUEST_BYTES);
        let most = self.links[link].max_request_bytes.min(half);
        self.links[link].max_request_bytes = most;
        tracing::warn!(
            agent = %self.links[link].uri, bytes = refused.bytes, most,
            "the agent rejected a request as too large; sending smaller requests"
        );
        let alone = refused.batches.len() == 1;
        for (lane, flight) in refused.batches {
            if !alone {
                self.handle_failure(lane, flight, again.clone());
            } else if !self.send_in_parts_of(lane, flight, most) {
                self.handle_failure(lane, flight, error.clone());
            }
            self.schedule(lane);
        }
    }
}

/// Records in a request's span that a part of it was not acknowledged.
fn record_span_failure(span: Option<&mut SampledSpan>, result: Option<&v1::PartitionProduceResult>) {
    let error = result.and_then(|result| result.error.as_ref());
    let error = error.filter(|error| error.code != ErrorCode::None.number());
    if let (Some(span), Some(error)) = (span, error) {
        span.set_error(ErrorCode::from_number(error.code).name(), error.message.clone());
    }
}

/// Returns whether this error means that the cached leader is outdated.
fn is_stale_leader_code(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeader
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::UnknownTopicId
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::ShuttingDown
            | ErrorCode::NetworkException
    )
}
